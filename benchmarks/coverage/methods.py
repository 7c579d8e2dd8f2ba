"""The candidates for a 95% interval of each metric, from one data set."""

from collections.abc import Callable

import numpy as np
from scipy.special import expit, logit
from scipy.stats import norm

from cxr_dist.evaluate.arrays import Floats
from cxr_dist.evaluate.bootstrap import LEVEL, interval
from cxr_dist.evaluate.intervals import MetricPath, Resampled, bounds, weighted
from cxr_dist.evaluate.paired import clustered_variance, placements
from cxr_dist.evaluate.predictions import Predictions

Interval = tuple[float, float]
Intervals = dict[MetricPath, Interval]
_TAILS = np.array([(1 - LEVEL) / 2, (1 + LEVEL) / 2])


def percentile(predictions: Predictions, resamples: Resampled) -> Intervals:
    """The percentile bootstrap over patients, which metrics.json had before."""
    found = {path: interval(values) for path, values in resamples.items()}
    return {path: (each["low"], each["high"]) for path, each in found.items() if each["low"] is not None}


def bca(predictions: Predictions, resamples: Resampled) -> Intervals:
    """The bias-corrected and accelerated bootstrap (Efron 1987), with a jackknife over patients."""
    _, patient_of = np.unique(predictions.patients, return_inverse=True)
    without = (np.arange(patient_of.max() + 1)[:, None] != patient_of).astype(np.float64)
    once, left_out = weighted(predictions, [np.ones((1, len(predictions)))]), weighted(predictions, [without])
    return {path: bca_of(float(once[path][0]), values, left_out[path]) for path, values in resamples.items()}


def bca_of(value: float, resamples: Floats, left_out: Floats) -> Interval:
    """The interval of a metric from its resamples, and from its values without one patient each."""
    kept, defined = resamples[~np.isnan(resamples)], left_out[~np.isnan(left_out)]
    if np.isnan(value) or not len(kept) or not len(defined):
        return np.nan, np.nan
    influence = defined.mean() - defined
    below = ((kept < value).sum() + (kept == value).sum() / 2) / len(kept)
    bias = norm.ppf(np.clip(below, 1 / len(kept), 1 - 1 / len(kept)))
    squares = (influence**2).sum()
    acceleration = (influence**3).sum() / (6 * squares**1.5) if squares > 0 else 0.0
    shifted = bias + norm.ppf(_TAILS)
    low, high = np.percentile(kept, 100 * norm.cdf(bias + shifted / (1 - acceleration * shifted)))
    return float(low), float(high)


def logit_delong(predictions: Predictions, resamples: Resampled) -> Intervals:
    """DeLong's variance with patients as clusters (Obuchowski 1997), on the scale of the logit; ROC AUC only."""
    found: Intervals = {}
    for one in predictions.each_class():
        above, below = placements(one.truth, one.score)
        variance = clustered_variance(one.truth, above, below, np.array(predictions.patients)[one.known])
        value = float(above.mean())
        path = ("per_class", one.name, "roc_auc")
        if variance is None or not 0 < value < 1:
            found[path] = value, value
            continue
        half = norm.ppf(_TAILS[1]) * np.sqrt(variance) / (value * (1 - value))
        found[path] = float(expit(logit(value) - half)), float(expit(logit(value) + half))
    return found


def ours(predictions: Predictions, resamples: Resampled) -> Intervals:
    """The intervals of metrics.json."""
    found = bounds(predictions, resamples)
    return {path: (each.low, each.high) for path, each in found.items() if each is not None}


METHODS: dict[str, Callable[[Predictions, Resampled], Intervals]] = {
    "percentile": percentile,
    "BCa": bca,
    "logit DeLong": logit_delong,
    "cxr_dist": ours,
}
