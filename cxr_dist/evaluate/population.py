"""Who was evaluated: the shares of age bands, sexes, views and positive labels, for metrics.json.

Two evaluations of one run can differ because their populations do; these numbers show it.
"""

from collections import Counter
from typing import Any

from cxr_dist.evaluate.predictions import Predictions
from cxr_dist.evaluate.subgroups import UNKNOWN_VALUE

DESCRIBED = ("age_band", "sex", "view")


def population(predictions: Predictions) -> dict[str, Any]:
    """{"n", "patients", "age_band", "sex", "view": value -> share of samples, "prevalence": class -> share or None}.

    A sample without the attribute counts as "not recorded"; an attribute that no sample has is empty. The prevalence
    is the share of positives among known labels, and None if no label is known.
    """
    shares: dict[str, Any] = {name: {} for name in DESCRIBED}
    for name in shares.keys() & predictions.attributes.keys():
        counts = Counter(value or UNKNOWN_VALUE for value in predictions.attributes[name])
        ordered = sorted(counts, key=lambda value: (value == UNKNOWN_VALUE, value))
        shares[name] = {value: counts[value] / len(predictions) for value in ordered}
    prevalence = {one.name: float(one.truth.mean()) if len(one.truth) else None for one in predictions.each_class()}
    counted = {"n": len(predictions), "patients": len(set(predictions.patients))}
    return counted | shares | {"prevalence": prevalence}
