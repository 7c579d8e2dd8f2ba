"""Predictions in, 95% intervals of the main metrics out: the percentile bootstrap over patients.

Films of one patient are alike, so whole patients are drawn with replacement (Efron and Tibshirani 1993,
chapter 13). A resample is a weight per sample (how often its patient was drawn), so that all resamples are
computed together as matrix products. The draws are hashes of (seed, resample, draw): the same on any machine.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_dist.data.random import uniform
from cxr_dist.evaluate.predictions import OneClass, Predictions

Floats = NDArray[np.float64]
LEVEL = 0.95
_CELLS = 2_000_000  # weights held at once (16 MB): bounds memory at any n


def intervals(predictions: Predictions, n_bootstrap: int = 1000, seed: int = 0) -> dict[str, Any]:
    """95% intervals {"low", "high", "skipped"}, nested as the metrics are.

    accuracy, balanced_accuracy, macro f1, macro roc_auc, and per class roc_auc. A resample that lacks what a
    metric needs (a class that the whole split has) is skipped for that metric and counted. With fewer than
    two patients, or where every resample is skipped, low and high are null.
    """
    ones = [predictions.one_class(index) for index in range(len(predictions.classes))]
    parts = [_metrics_of(ones, weights) for weights in _weights(predictions.patients, n_bootstrap, seed)]
    values = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    if len(set(predictions.patients)) < 2:
        values = {name: np.full_like(value, np.nan) for name, value in values.items()}
    aucs = values.pop("roc_auc")
    return {
        "level": LEVEL,
        "method": "percentile bootstrap over patients",
        "n_bootstrap": n_bootstrap,
        "seed": seed,
        "accuracy": _interval(_accuracy(predictions, values)),
        "balanced_accuracy": _interval(_balanced(predictions, values)),
        "macro": {"f1": _interval(_over_classes(values["f1"])), "roc_auc": _interval(_over_classes(aucs))},
        "per_class": {one.name: {"roc_auc": _interval(aucs[:, c])} for c, one in enumerate(ones)},
    }


def weighted_auc(truth: NDArray[np.bool_], score: Floats, weights: Floats) -> Floats:
    """[B] ROC AUC of the same m samples under B rows of weights [B, m]; NaN where a side has no weight.

    The Mann-Whitney statistic: the share of (positive, negative) pairs in the right order, ties counting half.
    """
    if len(score) == 0:
        return np.full(len(weights), np.nan)
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=np.nan) != 0)  # first of each run of equal scores
    positive = np.add.reduceat(weights[:, order] * truth[order], starts, axis=1)
    negative = np.add.reduceat(weights[:, order] * ~truth[order], starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative / 2
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    return _divide((positive * below).sum(axis=1), pairs)


def _weights(patients: list[str], n_bootstrap: int, seed: int) -> Iterator[Floats]:
    """Chunks of [b, n]: how often the patient of each sample was drawn in each resample."""
    _, patient_of = np.unique(np.array(patients), return_inverse=True)
    num_patients, rows = int(patient_of.max()) + 1, max(1, _CELLS // len(patients))
    for first in range(0, n_bootstrap, rows):
        resample = np.arange(first, min(first + rows, n_bootstrap))[:, None]
        drawn = (uniform(seed, resample, np.arange(num_patients)) * num_patients).astype(np.int64)
        flat = (drawn + num_patients * np.arange(len(resample))[:, None]).ravel()
        counts = np.bincount(flat, minlength=len(resample) * num_patients).reshape(len(resample), -1)
        yield counts[:, patient_of].astype(np.float64)


def _metrics_of(ones: list[OneClass], weights: Floats) -> dict[str, Floats]:
    """Each [b, C], one class against the rest; NaN where the metric is not defined."""

    def total(select: Callable[[OneClass], NDArray[np.bool_]]) -> Floats:
        return np.stack([weights[:, one.known] @ select(one).astype(np.float64) for one in ones], axis=1)

    tp, fp = total(lambda o: o.truth & o.predicted), total(lambda o: ~o.truth & o.predicted)
    fn, tn = total(lambda o: o.truth & ~o.predicted), total(lambda o: ~o.truth & ~o.predicted)
    aucs = [weighted_auc(one.truth, one.score, weights[:, one.known]) for one in ones]
    return {
        "hits": tp,
        "weight": np.broadcast_to(weights.sum(axis=1, keepdims=True), tp.shape),
        "accuracy": _divide(tp + tn, tp + fp + fn + tn),
        "recall": _divide(tp, tp + fn),
        "specificity": _divide(tn, tn + fp),
        "f1": _divide(2 * tp, 2 * tp + fp + fn),
        "roc_auc": np.stack(aucs, axis=1),
    }


def _divide(numerator: Floats, denominator: Floats) -> Floats:
    return np.divide(numerator, denominator, out=np.full_like(denominator, np.nan), where=denominator > 0)


def _accuracy(predictions: Predictions, values: dict[str, Floats]) -> Floats:
    if predictions.task == "multilabel":
        return _over_classes(values["accuracy"])
    return np.asarray(values["hits"].sum(axis=1) / values["weight"][:, 0])


def _balanced(predictions: Predictions, values: dict[str, Floats]) -> Floats:
    if predictions.task == "multilabel":
        return _over_classes((values["recall"] + values["specificity"]) / 2)
    one_class_only = len(np.unique(predictions.labels)) < 2
    return _over_classes(values["recall"] * (np.nan if one_class_only else 1.0))


def _over_classes(values: Floats) -> Floats:
    """[B] mean over the classes that are ever defined; NaN in a resample that lacks one of them."""
    defined = ~np.isnan(values).all(axis=0)
    return values[:, defined].mean(axis=1) if defined.any() else np.full(len(values), np.nan)


def _interval(values: Floats) -> dict[str, Any]:
    kept = values[~np.isnan(values)]
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(kept, [tail, 100 - tail]).tolist() if len(kept) else (None, None)
    return {"low": low, "high": high, "skipped": len(values) - len(kept)}
