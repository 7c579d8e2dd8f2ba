"""Every metric in every resample of the patients, and the 95% intervals, whose methods are in `wilson`.

A metric is named by its path in the metrics, e.g. ("macro", "roc_auc"). The calibration error is not resampled,
because its resamples are biased upwards, and neither are the micro AUCs, which are expensive and say little.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_dist.evaluate import wilson
from cxr_dist.evaluate.arrays import Bools, Floats
from cxr_dist.evaluate.bootstrap import LEVEL, divide, patient_weights, weighted_areas
from cxr_dist.evaluate.calibration import losses
from cxr_dist.evaluate.predictions import OneClass, Predictions
from cxr_dist.evaluate.risk_coverage import mc_answers, samples_of_answers, weighted_aurc

MetricPath = tuple[str, ...]
Resampled = dict[MetricPath, Floats]
_Integers = NDArray[np.int64]
_COUNTED = ("accuracy", "balanced_accuracy", "precision", "recall", "specificity", "f1")
_RANKED = ("roc_auc", "average_precision")
_CELLS: dict[str, Callable[[OneClass], Bools]] = {
    "tp": lambda one: one.truth & one.predicted,
    "fp": lambda one: ~one.truth & one.predicted,
    "fn": lambda one: one.truth & ~one.predicted,
    "tn": lambda one: ~one.truth & ~one.predicted,
}
_SHARES = {
    "accuracy": ("tp tn", "tp fp fn tn"),
    "precision": ("tp", "tp fp"),
    "negative_predictive_value": ("tn", "tn fn"),
    "recall": ("tp", "tp fn"),
    "specificity": ("tn", "tn fp"),
}
"""Share -> the cells of its hits, and those of its trials."""


def intervals(predictions: Predictions, n_bootstrap: int = 1000, seed: int = 0) -> dict[str, Any]:
    """95% intervals {"low", "high", "skipped"}, nested as the metrics are.

    `skipped` counts the resamples in which the metric is undefined, because they lack a class that the split has. Low
    and high are null if the metric is undefined, with fewer than two patients, and for a loss that is the same for all
    patients.
    """
    head = {"level": LEVEL, "method": wilson.METHOD, "n_bootstrap": n_bootstrap, "seed": seed}
    resamples = resampled(predictions, n_bootstrap, seed)
    found = bounds(predictions, resamples) if len(set(predictions.patients)) > 1 else {}
    return head | nested({path: _interval(found.get(path), values) for path, values in resamples.items()})


def _interval(found: wilson.Bounds | None, resamples: Floats) -> dict[str, Any]:
    low, high = (None, None) if found is None else (found.low, found.high)
    return {"low": low, "high": high, "skipped": int(np.isnan(resamples).sum())}


def resampled(predictions: Predictions, n_bootstrap: int, seed: int) -> Resampled:
    """Path of each metric -> its value in each resample, [B]; NaN where it is undefined."""
    values = weighted(predictions, patient_weights(predictions.patients, n_bootstrap, seed))
    if len(set(predictions.patients)) < 2:
        return {path: np.full_like(each, np.nan) for path, each in values.items()}
    return values


def weighted(predictions: Predictions, chunks: Iterable[Floats]) -> Resampled:
    """Path of each metric -> its value under each row of weights, in chunks [b, n]; NaN where it is undefined."""
    parts = [_metrics_of(predictions, weights) for weights in chunks]
    values = {path: np.concatenate([part[path] for part in parts]) for path in parts[0]}
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

    return {name: total(select) for name, select in _CELLS.items()}


def counts_by_patient(ones: list[OneClass], patients: list[str]) -> dict[str, Floats]:
    """Cells of the confusion matrices of one class against the rest for each patient, each [patients, C]."""
    patient_of = _patient_of(patients)

    def total(select: Callable[[OneClass], Bools]) -> Floats:
        size = int(patient_of.max()) + 1
        return np.stack([np.bincount(patient_of[one.known], select(one), minlength=size) for one in ones], axis=1)

    return {name: total(select) for name, select in _CELLS.items()}


def shares(cells: Mapping[str, Floats]) -> dict[str, wilson.Bounds | None]:
    """The intervals of the metrics of `counted` from the cells of each patient, [k]."""

    def share(hits: str, trials: str) -> wilson.Bounds | None:
        of_hits, of_trials = (np.sum([cells[name] for name in names.split()], axis=0) for names in (hits, trials))
        return wilson.share(of_hits, of_trials)

    found = {name: share(*parts) for name, parts in _SHARES.items()}
    found["balanced_accuracy"] = wilson.balanced_accuracy(found["recall"], found["specificity"])
    return found | {"f1": wilson.f1(share("tp", "tp fp fn"))}


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


def bounds(predictions: Predictions, resamples: Resampled) -> dict[MetricPath, wilson.Bounds | None]:
    """The interval of each metric of at least two patients."""
    observed = weighted(predictions, [np.ones((1, len(predictions)))])
    ones, cells = predictions.each_class(), counts_by_patient(predictions.each_class(), predictions.patients)
    branches: dict[MetricPath, dict[str, Floats]] = {
        ("micro",): {name: cell.sum(axis=1) for name, cell in cells.items()}
    }
    branches |= {("per_class", one.name): {n: cell[:, c] for n, cell in cells.items()} for c, one in enumerate(ones)}
    found = {(*branch, name): each for branch, own in branches.items() for name, each in shares(own).items()}
    found |= _areas(predictions, observed, resamples) | _losses(predictions)
    for name in (*_COUNTED, *_RANKED):
        path, parts = ("macro", name), [found.get(("per_class", one.name, name)) for one in ones]
        known = [part for part in parts if part is not None]
        most = wilson.mean_size(known) if known else 1.0
        found[path] = _area(path, observed, resamples, most)
    if predictions.task == "multilabel":
        return found | {(name,): found["macro", name] for name in ("accuracy", "balanced_accuracy")}
    images = np.bincount(_patient_of(predictions.patients)).astype(np.float64)
    found["accuracy",] = wilson.share(cells["tp"].sum(axis=1), images)
    one_class_only = np.isnan(observed["balanced_accuracy",][0])
    return found | {("balanced_accuracy",): None if one_class_only else found["macro", "recall"]}


def _areas(
    predictions: Predictions, observed: Resampled, resamples: Resampled
) -> dict[MetricPath, wilson.Bounds | None]:
    """The intervals of the areas of the classes and of the uncertainty."""
    patient_of = _patient_of(predictions.patients)
    most: dict[MetricPath, float] = {}
    for one in predictions.each_class():
        rarer = _rarer(one.truth, patient_of[one.known])
        most["per_class", one.name, "roc_auc"] = wilson.PER_RARER_SIDE * rarer
        most["per_class", one.name, "average_precision"] = rarer
    if predictions.mc is not None:
        _, right = mc_answers(predictions)
        rarer = _rarer(right, patient_of[samples_of_answers(predictions)])
        most["uncertainty", "error_auroc", "predictive_entropy"] = wilson.PER_RARER_SIDE * rarer
        most["uncertainty", "aurc"] = len(np.unique(patient_of))
    return {path: _area(path, observed, resamples, size) for path, size in most.items() if size > 0}


def _area(path: MetricPath, observed: Resampled, resamples: Resampled, most: float) -> wilson.Bounds | None:
    value, unbiased = float(observed[path][0]), path[-1] == "average_precision"
    return wilson.area(value, resamples[path], most, unbiased=unbiased)


def _rarer(truth: Bools, patient_of: _Integers) -> int:
    """The number of patients of the positives, or of the negatives if they are of fewer."""
    return min(len(np.unique(patient_of[side])) for side in (truth, ~truth))


def _losses(predictions: Predictions) -> dict[MetricPath, wilson.Bounds | None]:
    patient_of = _patient_of(predictions.patients)
    of_samples = losses(predictions.probabilities, predictions.labels, predictions.task)
    log_loss, brier, labels = (np.bincount(patient_of, values).astype(np.float64) for values in of_samples)
    largest = 2.0 if predictions.task == "multiclass" else 1.0
    return {("log_loss",): wilson.loss(log_loss, labels), ("brier",): wilson.loss(brier, labels, largest)}


def _patient_of(patients: list[str]) -> _Integers:
    """The number of each sample's patient, [n]."""
    return np.unique(np.array(patients), return_inverse=True)[1]
