"""Operating points: thresholds are chosen on one split (validation) and applied to another (test).

On the samples on which it was chosen, a threshold looks better than it is.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.metrics import roc_curve

from cxr_dist.errors import UserError
from cxr_dist.evaluate.intervals import counted, counts, counts_by_patient, shares
from cxr_dist.evaluate.predictions import OneClass, Predictions

REPORTED = ("recall", "specificity", "precision", "negative_predictive_value")


def check_sensitivity(at_sensitivity: float | None) -> None:
    """Raise UserError unless `at_sensitivity` is None or lies in (0, 1]."""
    if at_sensitivity is not None and not 0 < at_sensitivity <= 1:
        raise UserError(f"--at-sensitivity is {at_sensitivity:g}; expected a share above 0 and up to 1, e.g. 0.9")


def rule_of(at_sensitivity: float | None) -> str:
    """How thresholds are chosen, in words."""
    if at_sensitivity is None:
        return "Youden: the largest sensitivity + specificity"
    return f"the highest specificity with a sensitivity of at least {at_sensitivity:g}"


def choose(one: OneClass, at_sensitivity: float | None) -> float | None:
    """The threshold of a class (positive where score ≥ threshold); None without positives or without negatives.

    It maximises Youden's J (1950), or is the highest threshold whose sensitivity is at least `at_sensitivity`. If
    several thresholds are equally good, the highest is taken.
    """
    if not one.has_both_sides:
        return None
    # scikit-learn's first point, an infinite threshold without a positive prediction, is dropped.
    curve = roc_curve(one.truth, one.score, drop_intermediate=False)
    false_positive, true_positive, thresholds = (column[1:] for column in curve)
    if at_sensitivity is None:
        return float(thresholds[np.argmax(true_positive - false_positive)])
    return float(thresholds[np.argmax(true_positive >= at_sensitivity - 1e-12)])


def operating_points(
    validation: Predictions,
    test: Predictions,
    at_sensitivity: float | None,
) -> dict[str, Any]:
    """For each class the threshold chosen on `validation`, its metrics there, and on `test` with 95% intervals.

    A class without positives or negatives in validation has a null threshold and a reason.
    """
    check_sensitivity(at_sensitivity)
    thresholds = {one.name: choose(one, at_sensitivity) for one in validation.each_class()}
    chosen = {name: value for name, value in thresholds.items() if value is not None}
    inside, outside = _at(validation, chosen), _at(test, chosen)
    tests = _judge(outside, test)
    points: dict[str, Any] = {
        name: {"threshold": None, "reason": "validation lacks positive or negative samples"} for name in thresholds
    }
    for one, judged in zip(inside, tests, strict=True):
        points[one.name] = {"threshold": chosen[one.name], "validation": _values(one), "applied": judged}
    return {"rule": rule_of(at_sensitivity), "per_class": points}


def at_own_thresholds(
    parts: Sequence[Predictions], thresholds: Sequence[Mapping[str, float | None]], whole: Predictions
) -> dict[str, Any]:
    """Class -> metrics on `whole`, the samples of all parts in order, each at the threshold of its own part.

    A class that lacks a threshold in some part has only a reason.
    """
    points: dict[str, Any] = {}
    for c, one in enumerate(whole.each_class()):
        by_part = [each[one.name] for each in thresholds]
        known = [threshold for threshold in by_part if threshold is not None]
        if len(known) < len(by_part):
            reason = "the validation split of a run lacks positive or negative samples"
            points[one.name] = {"threshold": None, "reason": reason}
            continue
        scores = [part.one_class(c).score for part in parts]
        predicted = np.concatenate([score >= at for score, at in zip(scores, known, strict=True)])
        (judged,) = _judge([dataclasses.replace(one, predicted=predicted)], whole)
        points[one.name] = {"threshold": None, "thresholds": known, "applied": judged}
    return points


def _at(predictions: Predictions, thresholds: dict[str, float]) -> list[OneClass]:
    """The classes that have a threshold, with the predictions at that threshold."""
    ones = [one for one in predictions.each_class() if one.name in thresholds]
    return [dataclasses.replace(one, predicted=one.score >= thresholds[one.name]) for one in ones]


def _values(one: OneClass) -> dict[str, Any]:
    cells = {name: cell[0] for name, cell in counts([one], np.ones((1, len(one.known)))).items()}
    tn, fp, fn, tp = (int(cells[name][0]) for name in ("tn", "fp", "fn", "tp"))
    metrics = {name: float(value[0]) for name, value in counted(**cells).items() if name in REPORTED}
    values = {name: None if np.isnan(value) else value for name, value in metrics.items()}
    return {"confusion": [[tn, fp], [fn, tp]]} | values


def _judge(ones: list[OneClass], test: Predictions) -> list[dict[str, Any]]:
    """`_values` of each class on the test split, with each metric as {"value", "low", "high"}."""
    if not ones:
        return []
    cells, enough = counts_by_patient(ones, test.patients), len(set(test.patients)) > 1
    judged = []
    for c, one in enumerate(ones):
        values, found = _values(one), shares({name: cell[:, c] for name, cell in cells.items()})
        for name in REPORTED:
            bounds = found[name] if enough else None
            low, high = (None, None) if bounds is None else (bounds.low, bounds.high)
            values[name] = {"value": values[name], "low": low, "high": high}
        judged.append(values)
    return judged
