"""95% intervals that have a width at 0 and 1 and cover with six to ten positives (`python -m benchmarks.coverage`).

A share has Wilson's interval (1927), whose number of trials is an effective one, because the images of a patient are
no independent trials. An area under a curve and a mean over classes have the same interval: their effective number of
trials follows from the variance of their resamples, and is bounded, so that a perfect separation of few positives is
not taken for certain. A loss, which has no such upper bound, is treated on the scale of its logarithm.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri, stdtrit

from cxr_dist.evaluate.arrays import Floats
from cxr_dist.evaluate.bootstrap import LEVEL

METHOD = (
    "over patients: Wilson with an effective sample size (shares, areas, means over classes), around the value without "
    "the bootstrap's estimate of its bias (average precision), MOVER (balanced accuracy of a class), Student's t of "
    "the logarithm (log loss, Brier score)"
)
PER_RARER_SIDE = 3.0
"""The most trials that a ROC AUC is worth per patient of the rarer side: those of an AUC of 0.5, ¼ / (1/12)."""
_TAIL = (1 + LEVEL) / 2
_Z = float(ndtri(_TAIL))


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """A 95% interval of a metric."""

    value: float
    """The metric, which lies inside the interval."""
    low: float
    high: float
    size: float
    """The number of independent trials whose share would be as uncertain."""


def wilson(value: float, size: float, centre: float | None = None) -> Bounds:
    """Wilson's interval of a share of `size` > 0 trials, around `centre`, which is the value unless it is given."""
    middle = value if centre is None else centre
    scale, square = 1 + _Z**2 / size, _Z**2 / (2 * size)
    half = _Z * np.sqrt(middle * (1 - middle) / size + square / (2 * size)) / scale
    between = (middle + square) / scale
    low, high = max(0.0, min(between - half, value)), min(1.0, max(between + half, value))
    return Bounds(value=value, low=float(low), high=float(high), size=float(size))


def share(hits: Floats, trials: Floats) -> Bounds | None:
    """The share Σ hits / Σ trials, given both for each patient, [k]; None without trials.

    The design effect, the variance between patients over that of independent trials, divides the number of trials
    (Kish 1965). It lies between 1 and that of patients whose trials are all alike, which holds for a share of 0 or 1,
    where there is nothing to estimate it from. With one trial for each patient this is Wilson's interval itself.
    """
    total = trials.sum()
    if total == 0:
        return None
    value = float(hits.sum() / total)
    all_alike = total**2 / (trials**2).sum()
    if not 0 < value < 1:
        return wilson(value, all_alike)
    effect = ((hits - value * trials) ** 2).sum() / (total * value * (1 - value))
    return wilson(value, max(total / max(effect, 1.0), all_alike))


def bounded_mean(sums: Floats, counts: Floats) -> Bounds | None:
    """The mean Σ sums / Σ counts of values between 0 and 1, given both for each patient, [k]; None without values.

    The variance is that between patients. It is enlarged as Student's t is wider than a normal distribution, because it
    is estimated, and is at most that of `share` for a share of 0 or 1, which also holds if it is estimated as 0.
    """
    total, patients = counts.sum(), int((counts > 0).sum())
    if total == 0:
        return None
    value = float(sums.sum() / total)
    all_alike = total**2 / (counts**2).sum()
    squares = ((sums - value * counts) ** 2).sum()
    if patients < 2 or squares <= 0 or not 0 < value < 1:
        return wilson(min(max(value, 0.0), 1.0), all_alike)
    wider = (float(stdtrit(patients - 1, _TAIL)) / _Z) ** 2 * patients / (patients - 1)
    return wilson(value, max(value * (1 - value) * total**2 / (squares * wider), all_alike))


def f1(jaccard: Bounds | None) -> Bounds | None:
    """F1 = 2J / (1 + J) from J = tp / (tp + fp + fn), which is a share."""
    if jaccard is None:
        return None
    value, low, high = (2 * j / (1 + j) for j in (jaccard.value, jaccard.low, jaccard.high))
    return Bounds(value=value, low=low, high=high, size=jaccard.size)


def balanced_accuracy(recall: Bounds | None, specificity: Bounds | None) -> Bounds | None:
    """The mean of two shares of different images: the squared distances of the bounds add up like variances.

    This is MOVER (Zou and Donner, Statistics in Medicine 2008) for independent shares.
    """
    if recall is None or specificity is None:
        return None
    value = (recall.value + specificity.value) / 2
    below = np.hypot(recall.value - recall.low, specificity.value - specificity.low) / 2
    above = np.hypot(recall.high - recall.value, specificity.high - specificity.value) / 2
    size = mean_size([recall, specificity])
    return Bounds(value=value, low=max(0.0, value - below), high=min(1.0, value + above), size=size)


def mean_size(parts: Sequence[Bounds]) -> float:
    """The effective number of trials of a mean of independent shares."""
    return float(len(parts) ** 2 / sum(1 / part.size for part in parts))


def area(value: float, resamples: Floats, most: float, *, unbiased: bool = False) -> Bounds | None:
    """A metric between 0 and 1 whose variance is that of its resamples, [B]; None if the metric is undefined.

    It is worth at most `most` trials. With `unbiased`, the interval is around the value without its bias, as the
    resamples estimate it: the average precision of few positives is too high, and that of resamples is higher still.
    """
    kept = resamples[~np.isnan(resamples)]
    if np.isnan(value) or not len(kept):
        return None
    centre = float(np.clip(2 * value - kept.mean(), 0.0, 1.0)) if unbiased else value
    spread, variance = centre * (1 - centre), float(kept.var())
    size = min(spread / variance, most) if spread > 0 and variance > 0 else most
    return wilson(value, size, centre)


def loss(sums: Floats, labels: Floats, largest: float = np.inf) -> Bounds | None:
    """The mean loss Σ sums / Σ labels, given both for each patient, [k]; None if all patients have the same loss.

    The degrees of freedom are those of the variance's estimate, 2k / (kurtosis - 1), because a few badly predicted
    patients may make up most of it.
    """
    total, patients = labels.sum(), int((labels > 0).sum())
    value = float(sums.sum() / total) if total else 0.0
    squares = (sums - value * labels) ** 2
    spread = squares.sum()
    if value <= 0 or spread <= 0 or patients < 2:
        return None
    excess = (squares**2).sum() / spread**2 - 1 / patients
    freedom = min(2 / excess if excess > 0 else np.inf, patients - 1.0)
    error = np.sqrt(spread * patients / (patients - 1)) / total
    factor = np.exp(min(float(stdtrit(freedom, _TAIL)) * error / value, 700.0))
    low, high = value / factor, max(value, min(value * factor, largest))
    return Bounds(value=value, low=float(low), high=float(high), size=float(patients))
