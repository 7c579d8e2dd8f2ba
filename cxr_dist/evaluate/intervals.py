"""Every metric in every resample of the patients, and the 95% bootstrap intervals.

A metric is named by its path in the metrics, e.g. ("macro", "roc_auc"). The calibration error is not resampled,
because its resamples are biased upwards, and neither are the micro AUCs, which are expensive and say little.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cxr_dist.evaluate.arrays import Bools, Floats
from cxr_dist.evaluate.bootstrap import LEVEL, METHOD, divide, interval, patient_weights, weighted_areas
from cxr_dist.evaluate.calibration import losses
from cxr_dist.evaluate.predictions import OneClass, Predictions
from cxr_dist.evaluate.risk_coverage import mc_answers, samples_of_answers, weighted_aurc

MetricPath = tuple[str, ...]
Resampled = dict[MetricPath, Floats]
_COUNTED = ("accuracy", "balanced_accuracy", "precision", "recall", "specificity", "f1")
_RANKED = ("roc_auc", "average_precision")


def intervals(predictions: Predictions, n_bootstrap: int = 1000, seed: int = 0) -> dict[str, Any]:
    """95% intervals {"low", "high", "skipped"}, nested as the metrics are.

    `skipped` counts the resamples in which the metric is undefined, because they lack a class that the split has. With
    fewer than two patients, or if every resample is skipped, low and high are null.
    """
    head = {"level": LEVEL, "method": METHOD, "n_bootstrap": n_bootstrap, "seed": seed}
    resamples = resampled(predictions, n_bootstrap, seed)
    return head | nested({path: interval(values) for path, values in resamples.items()})


def resampled(predictions: Predictions, n_bootstrap: int, seed: int) -> Resampled:
    """Path of each metric -> its value in each resample, [B]; NaN where it is undefined."""
    chunks = patient_weights(predictions.patients, n_bootstrap, seed)
    parts = [_metrics_of(predictions, weights) for weights in chunks]
    values = {path: np.concatenate([part[path] for part in parts]) for path in parts[0]}
    if len(set(predictions.patients)) < 2:
        values = {path: np.full_like(each, np.nan) for path, each in values.items()}
    return _over_classes(values, predictions) | {p: v for p, v in values.items() if p[0] != "help"}


def nested(values: Mapping[MetricPath, Any]) -> dict[str, Any]:
    """{("macro", "f1"): x} as {"macro": {"f1": x}}."""
    tree: dict[str, Any] = {}
    for path, value in values.items():
        branch = tree
        for key in path[:-1]:
            branch = branch.setdefault(key, {})
        branch[path[-1]] = value
    return tree


def counts(ones: list[OneClass], weights: Floats) -> dict[str, Floats]:
    """Weighted cells of the confusion matrices of one class against the rest, each [b, C]."""

    def total(select: Callable[[OneClass], Bools]) -> Floats:
        return np.stack([weights[:, one.known] @ select(one).astype(np.float64) for one in ones], axis=1)

    return {
        "tp": total(lambda o: o.truth & o.predicted),
        "fp": total(lambda o: ~o.truth & o.predicted),
        "fn": total(lambda o: o.truth & ~o.predicted),
        "tn": total(lambda o: ~o.truth & ~o.predicted),
    }


def counted(tp: Floats, fp: Floats, fn: Floats, tn: Floats) -> dict[str, Floats]:
    """The metrics of confusion matrices, in the shape of their cells; NaN where undefined."""
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
    """Every metric under weights [b, n]; ("help", …) is only needed to compute others."""
    ones = predictions.each_class()
    cells = counts(ones, weights)
    of_class = counted(**cells)
    pooled = counted(**{name: cell.sum(axis=1) for name, cell in cells.items()})
    values: Resampled = {("micro", name): pooled[name] for name in _COUNTED}
    for c, one in enumerate(ones):
        areas = weighted_areas(one.truth, one.score, weights[:, one.known])
        values |= {("per_class", one.name, name): of_class[name][:, c] for name in _COUNTED}
        values |= {("per_class", one.name, name): area for name, area in zip(_RANKED, areas, strict=True)}
    hits = cells["tp"].sum(axis=1)
    return values | {("help", "hits"): divide(hits, weights.sum(axis=1))} | _sums(predictions, weights)


def _sums(predictions: Predictions, weights: Floats) -> Resampled:
    """The metrics that are means over samples or answers, under weights [b, n]."""
    log_loss, brier, labels = losses(predictions.probabilities, predictions.labels, predictions.task)
    total = weights @ labels
    values: Resampled = {
        ("log_loss",): divide(weights @ log_loss, total),
        ("brier",): divide(weights @ brier, total),
    }
    if predictions.mc is not None:
        uncertainty, right = mc_answers(predictions)
        of_answers = weights[:, samples_of_answers(predictions)]
        error_auroc, _ = weighted_areas(~right, uncertainty, of_answers)
        values["uncertainty", "error_auroc", "predictive_entropy"] = error_auroc
        values["uncertainty", "aurc"] = weighted_aurc(uncertainty, right, of_answers)
    return values


def _over_classes(values: Resampled, predictions: Predictions) -> Resampled:
    """Accuracy, balanced accuracy, and the means over classes."""

    def each(name: str) -> Floats:
        return np.stack([values["per_class", one, name] for one in predictions.classes], axis=1)

    macro: Resampled = {("macro", name): _mean(each(name)) for name in (*_COUNTED, *_RANKED)}
    if predictions.task == "multilabel":
        return {(name,): macro["macro", name] for name in ("accuracy", "balanced_accuracy")} | macro
    one_class_only = len(np.unique(predictions.labels)) < 2
    balanced = _mean(each("recall") * (np.nan if one_class_only else 1.0))
    return {("accuracy",): values["help", "hits"], ("balanced_accuracy",): balanced, **macro}


def _mean(values: Floats) -> Floats:
    """Mean [B] over the classes that any resample defines; NaN in a resample that does not define all of these."""
    defined = ~np.isnan(values).all(axis=0)
    return values[:, defined].mean(axis=1) if defined.any() else np.full(len(values), np.nan)
