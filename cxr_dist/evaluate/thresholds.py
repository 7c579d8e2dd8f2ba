"""Operating points: thresholds chosen on one split (validation), and only then applied to another (test).

A threshold that was chosen on the samples that it is judged on looks better than it is.
"""

import dataclasses
from typing import Any

import numpy as np
from sklearn.metrics import roc_curve

from cxr_dist.errors import UserError
from cxr_dist.evaluate.arrays import Floats
from cxr_dist.evaluate.bootstrap import interval, patient_weights
from cxr_dist.evaluate.intervals import counted, counts
from cxr_dist.evaluate.predictions import OneClass, Predictions

REPORTED = ("recall", "specificity", "precision", "negative_predictive_value")


def check_sensitivity(at_sensitivity: float | None) -> None:
    """Raises UserError unless it is None or lies in (0, 1]."""
    if at_sensitivity is not None and not 0 < at_sensitivity <= 1:
        raise UserError(
            f"--at-sensitivity is {at_sensitivity:g}; expected a share above 0 and up to 1, e.g. 0.9"
        )


def rule_of(at_sensitivity: float | None) -> str:
    """How thresholds are chosen, in words."""
    if at_sensitivity is None:
        return "Youden: the largest sensitivity + specificity"
    return f"the highest specificity with a sensitivity of at least {at_sensitivity:g}"


def choose(one: OneClass, at_sensitivity: float | None) -> float | None:
    """The threshold of a class (positive where score ≥ threshold), or None where only one side is there.

    Youden's J (1950), or the highest threshold whose sensitivity is at least `at_sensitivity`; among equals
    the highest one.
    """
    if not one.truth.any() or one.truth.all():
        return None
    false_positive, true_positive, thresholds = roc_curve(one.truth, one.score, drop_intermediate=False)
    # The first point is scikit-learn's own: no positive answer at all, at an infinite threshold.
    false_positive, true_positive, thresholds = false_positive[1:], true_positive[1:], thresholds[1:]
    if at_sensitivity is None:
        return float(thresholds[np.argmax(true_positive - false_positive)])
    return float(thresholds[np.argmax(true_positive >= at_sensitivity - 1e-12)])


def operating_points(
    validation: Predictions,
    test: Predictions,
    at_sensitivity: float | None,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Per class the threshold chosen on `validation`, what it gives there, and on `test` with 95% intervals.

    A class without positives or negatives in validation has a null threshold and a reason.
    """
    check_sensitivity(at_sensitivity)
    indices = range(len(test.classes))
    thresholds = {validation.classes[c]: choose(validation.one_class(c), at_sensitivity) for c in indices}
    chosen = {name: value for name, value in thresholds.items() if value is not None}
    inside, outside = _at(validation, chosen), _at(test, chosen)
    tests = _judge(outside, test, n_bootstrap, seed)
    points: dict[str, Any] = {
        name: {"threshold": None, "reason": "validation lacks positive or negative samples"}
        for name in thresholds
    }
    for one, judged in zip(inside, tests, strict=True):
        points[one.name] = {"threshold": chosen[one.name], "validation": _values(one), "applied": judged}
    return {"rule": rule_of(at_sensitivity), "per_class": points}


def _at(predictions: Predictions, thresholds: dict[str, float]) -> list[OneClass]:
    """The classes that have a threshold, with the answers that it gives."""
    ones = []
    for name, threshold in thresholds.items():
        one = predictions.one_class(predictions.classes.index(name))
        ones.append(dataclasses.replace(one, predicted=one.score >= threshold))
    return ones


def _values(one: OneClass) -> dict[str, Any]:
    cells = {name: cell[0] for name, cell in counts([one], np.ones((1, len(one.known)))).items()}
    values = {name: _number(found) for name, found in counted(**cells).items() if name in REPORTED}
    return {"confusion": _table(cells)} | values


def _table(cells: dict[str, Floats]) -> list[list[int]]:
    tn, fp, fn, tp = (int(cells[name][0]) for name in ("tn", "fp", "fn", "tp"))
    return [[tn, fp], [fn, tp]]


def _number(value: Floats) -> float | None:
    return None if np.isnan(value[0]) else float(value[0])


def _judge(ones: list[OneClass], test: Predictions, n_bootstrap: int, seed: int) -> list[dict[str, Any]]:
    """`_values` of each class on the test split, its metrics as {"value", "low", "high"}."""
    if not ones:
        return []
    parts = [
        counted(**counts(ones, weights)) for weights in patient_weights(test.patients, n_bootstrap, seed)
    ]
    judged = []
    for c, one in enumerate(ones):
        values = _values(one)
        for name in REPORTED:
            found = np.concatenate([part[name][:, c] for part in parts])
            enough = len(set(test.patients)) > 1
            bounds = interval(found if enough else np.full_like(found, np.nan))
            values[name] = {"value": values[name], "low": bounds["low"], "high": bounds["high"]}
        judged.append(values)
    return judged
