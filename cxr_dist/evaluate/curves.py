"""ROC and precision–recall curves on a common grid, with 95% bands from the bootstrap over patients.

A band is pointwise: at each abscissa it spans the middle 95% of the resampled curves. The macro curve is the mean of
the classes' curves at each abscissa.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cxr_dist.evaluate.arrays import Floats
from cxr_dist.evaluate.bootstrap import LEVEL, divide, patient_weights, weighted_counts
from cxr_dist.evaluate.predictions import OneClass, Predictions

GRID = np.linspace(0, 1, 101)
_OnGrid = Callable[[Floats, Floats], Floats]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Ordinates at the 101 abscissas of GRID, each in [0, 1]."""

    y: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True, kw_only=True)
class Curves:
    """The curves of the classes with positives and negatives, and their mean (None if there is no such class)."""

    per_class: dict[str, Curve]
    macro: Curve | None


def roc_curves(predictions: Predictions, n_bootstrap: int = 300, seed: int = 0) -> Curves:
    """Sensitivity at each false-positive rate, with linear interpolation between the points."""
    return _curves(predictions, _sensitivity, n_bootstrap, seed)


def precision_recall_curves(predictions: Predictions, n_bootstrap: int = 300, seed: int = 0) -> Curves:
    """Precision at the highest threshold that reaches each recall, without interpolation."""
    return _curves(predictions, _precision, n_bootstrap, seed)


def _curves(predictions: Predictions, on_grid: _OnGrid, n_bootstrap: int, seed: int) -> Curves:
    ones = [one for one in predictions.each_class() if one.has_both_sides]
    if not ones:
        return Curves(per_class={}, macro=None)
    once = _stack(ones, on_grid, np.ones((1, len(predictions))))[0]
    weights = patient_weights(predictions.patients, n_bootstrap, seed)
    many = np.concatenate([_stack(ones, on_grid, chunk) for chunk in weights])
    if len(set(predictions.patients)) < 2:
        many = np.full_like(many, np.nan)
    return Curves(
        per_class={one.name: _curve(once[c], many[:, c]) for c, one in enumerate(ones)},
        macro=_curve(once.mean(axis=0), many.mean(axis=1)),
    )


def _stack(ones: list[OneClass], on_grid: _OnGrid, weights: Floats) -> Floats:
    """Each class's curve under each row of weights, [b, C, 101]; NaN where positives or negatives have no weight."""
    each = (weighted_counts(one.truth, one.score, weights[:, one.known]) for one in ones)
    return np.stack([on_grid(*class_counts) for class_counts in each], axis=1)


def _curve(y: Floats, many: Floats) -> Curve:
    """The curve with the band of the resampled ordinates `many` [B, 101], in which undefined rows are NaN."""
    kept = many[~np.isnan(many).any(axis=1)]
    if not len(kept):
        return Curve(y=y, low=np.full_like(y, np.nan), high=np.full_like(y, np.nan))
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(kept, [tail, 100 - tail], axis=0)
    return Curve(y=y, low=low, high=high)


def _sensitivity(true_positives: Floats, false_positives: Floats) -> Floats:
    # Both rates start at 0. At equal false-positive rates np.interp takes the last point, which is the highest.
    tpr, fpr = (np.pad(divide(part, part[:, -1:]), ((0, 0), (1, 0))) for part in (true_positives, false_positives))
    rows = [np.interp(GRID, x, y) for x, y in zip(fpr, tpr, strict=True)]
    return np.stack(rows) + _gap(true_positives, false_positives)


def _precision(true_positives: Floats, false_positives: Floats) -> Floats:
    recall = divide(true_positives, true_positives[:, -1:])
    answered = true_positives + false_positives
    precision = np.divide(true_positives, answered, out=np.ones_like(answered), where=answered > 0)
    # A tolerance, so that the rounding error of a quotient does not select the next threshold.
    reached = [np.searchsorted(row, GRID - 1e-12) for row in recall]
    first = np.minimum(np.stack(reached), recall.shape[1] - 1)
    return np.take_along_axis(precision, first, axis=1) + _gap(true_positives, false_positives)


def _gap(true_positives: Floats, false_positives: Floats) -> Floats:
    """NaN for a resample without positives or without negatives, else 0; [b, 1]."""
    both = (true_positives[:, -1:] > 0) & (false_positives[:, -1:] > 0)
    return np.where(both, 0.0, np.nan)
