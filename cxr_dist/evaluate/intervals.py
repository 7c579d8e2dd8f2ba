"""Predictions in, each metric over all resamples of patients out, and the 95% intervals that follow.

A metric is named by its path in the metrics, e.g. ("macro", "roc_auc"). Not resampled: the calibration error,
whose resamples are all larger than the value itself, and the micro AUCs, which cost much and say little.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cxr_dist.evaluate.arrays import Bools, Floats
from cxr_dist.evaluate.bootstrap import LEVEL, METHOD, divide, interval, patient_weights, weighted_areas
from cxr_dist.evaluate.calibration import losses
from cxr_dist.evaluate.predictions import OneClass, Predictions
from cxr_dist.evaluate.risk_coverage import mc_answers, samples_of_answers, weighted_aurc

Path = tuple[str, ...]
Resampled = dict[Path, Floats]
_COUNTED = ("accuracy", "balanced_accuracy", "precision", "recall", "specificity", "f1")
_RANKED = ("roc_auc", "average_precision")


def intervals(predictions: Predictions, n_bootstrap: int = 1000, seed: int = 0) -> dict[str, Any]:
    """95% intervals {"low", "high", "skipped"}, nested as the metrics are.

    A resample that lacks what a metric needs (a class that the whole split has) is skipped for that metric and
    counted. With fewer than two patients, or where every resample is skipped, low and high are null.
    """
    head = {"level": LEVEL, "method": METHOD, "n_bootstrap": n_bootstrap, "seed": seed}
    values = resampled(predictions, n_bootstrap, seed)
    return head | nested({path: interval(found) for path, found in values.items()})


def resampled(predictions: Predictions, n_bootstrap: int, seed: int) -> Resampled:
    """Path -> [B], each metric in each resample; NaN where it is not defined."""
    parts = [
        _metrics_of(predictions, weights)
        for weights in patient_weights(predictions.patients, n_bootstrap, seed)
    ]
    values = {path: np.concatenate([part[path] for part in parts]) for path in parts[0]}
    if len(set(predictions.patients)) < 2:
        values = {path: np.full_like(found, np.nan) for path, found in values.items()}
    return _over_classes(values, predictions) | {p: v for p, v in values.items() if p[0] != "help"}


def nested(found: Mapping[Path, Any]) -> dict[str, Any]:
    """{("macro", "f1"): x} as {"macro": {"f1": x}}."""
    tree: dict[str, Any] = {}
    for path, value in found.items():
        branch = tree
        for key in path[:-1]:
            branch = branch.setdefault(key, {})
        branch[path[-1]] = value
    return tree


def counts(ones: list[OneClass], weights: Floats) -> dict[str, Floats]:
    """Weight of each cell of the 2 × 2 tables, each [b, C], one class against the rest."""

    def total(select: Callable[[OneClass], Bools]) -> Floats:
        return np.stack([weights[:, one.known] @ select(one).astype(np.float64) for one in ones], axis=1)

    return {
        "tp": total(lambda o: o.truth & o.predicted),
        "fp": total(lambda o: ~o.truth & o.predicted),
        "fn": total(lambda o: o.truth & ~o.predicted),
        "tn": total(lambda o: ~o.truth & ~o.predicted),
    }


def counted(tp: Floats, fp: Floats, fn: Floats, tn: Floats) -> dict[str, Floats]:
    """The metrics that follow from the cells, of any one shape; NaN where not defined."""
    recall, specificity = divide(tp, tp + fn), divide(tn, tn + fp)
    return {
        "accuracy": divide(tp + tn, tp + fp + fn + tn),
        "balanced_accuracy": (recall + specificity) / 2,
        "precision": divide(tp, tp + fp),
        "negative_predictive_value": divide(tn, tn + fn),
        "recall": recall,
        "specificity": specificity,
        "f1": divide(2 * tp, 2 * tp + fp + fn),
    }


def _metrics_of(predictions: Predictions, weights: Floats) -> Resampled:
    """Every metric under rows of weights [b, n]; ("help", …) is only needed to compute others."""
    ones = [predictions.one_class(index) for index in range(len(predictions.classes))]
    cells = counts(ones, weights)
    of_class = counted(**cells)
    pooled = counted(**{name: cell.sum(axis=1) for name, cell in cells.items()})
    found: Resampled = {("micro", name): pooled[name] for name in _COUNTED}
    for c, one in enumerate(ones):
        areas = weighted_areas(one.truth, one.score, weights[:, one.known])
        each = {name: values[:, c] for name, values in of_class.items()} | dict(
            zip(_RANKED, areas, strict=True)
        )
        found |= {("per_class", one.name, name): each[name] for name in (*_COUNTED, *_RANKED)}
    hits = cells["tp"].sum(axis=1)
    return found | {("help", "hits"): divide(hits, weights.sum(axis=1))} | _sums(predictions, weights)


def _sums(predictions: Predictions, weights: Floats) -> Resampled:
    """The metrics that are means over samples or answers."""
    log_loss, brier, labels = losses(predictions.probabilities, predictions.labels, predictions.task)
    total = weights @ labels
    found: Resampled = {
        ("log_loss",): divide(weights @ log_loss, total),
        ("brier",): divide(weights @ brier, total),
    }
    if predictions.mc is None:
        return found
    doubt, right = mc_answers(predictions)
    of_answers = weights[:, samples_of_answers(predictions)]
    return found | {
        ("uncertainty", "error_auroc", "predictive_entropy"): weighted_areas(~right, doubt, of_answers)[0],
        ("uncertainty", "aurc"): weighted_aurc(doubt, right, of_answers),
    }


def _over_classes(values: Resampled, predictions: Predictions) -> Resampled:
    """accuracy, balanced accuracy, and the means over classes."""

    def each(name: str) -> Floats:
        return np.stack([values["per_class", one, name] for one in predictions.classes], axis=1)

    macro: Resampled = {("macro", name): _mean(each(name)) for name in (*_COUNTED, *_RANKED)}
    if predictions.task == "multilabel":
        return {(name,): macro["macro", name] for name in ("accuracy", "balanced_accuracy")} | macro
    one_class_only = len(np.unique(predictions.labels)) < 2
    balanced = _mean(each("recall") * (np.nan if one_class_only else 1.0))
    return {("accuracy",): values["help", "hits"], ("balanced_accuracy",): balanced, **macro}


def _mean(values: Floats) -> Floats:
    """[B] mean over the classes that are ever defined; NaN in a resample that lacks one of them."""
    defined = ~np.isnan(values).all(axis=0)
    return values[:, defined].mean(axis=1) if defined.any() else np.full(len(values), np.nan)
