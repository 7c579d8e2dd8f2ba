"""The bootstrap over patients: the weight of each sample in each resample, and rank metrics under such weights.

Images of one patient are correlated, so whole patients are drawn with replacement (Efron and Tibshirani 1993,
chapter 13). A sample's weight is the number of times that its patient was drawn, so all resamples are computed
together as matrix products. The random numbers are hashes of (seed, resample, draw): they are the same on any
machine, and for two runs on the same patients, so the difference of the runs is paired.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from cxr_dist.data.random import uniform
from cxr_dist.evaluate.arrays import Bools, Floats

LEVEL = 0.95
_CELLS = 200_000  # weights in memory at once (1.6 MB), so that they fit the processor's cache


def patient_weights(patients: list[str], n_bootstrap: int, seed: int) -> Iterator[Floats]:
    """Yields chunks [b, n]: how often the patient of each of n samples was drawn in each of b resamples."""
    _, patient_of = np.unique(np.array(patients), return_inverse=True)
    num_patients, rows = int(patient_of.max()) + 1, max(1, _CELLS // len(patients))
    for first in range(0, n_bootstrap, rows):
        resample = np.arange(first, min(first + rows, n_bootstrap))[:, None]
        drawn = (uniform(seed, resample, np.arange(num_patients)) * num_patients).astype(np.int64)
        flat = (drawn + num_patients * np.arange(len(resample))[:, None]).ravel()
        counts = np.bincount(flat, minlength=len(resample) * num_patients).reshape(len(resample), -1)
        yield counts[:, patient_of].astype(np.float64)


def weighted_counts(truth: Bools, score: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Weights of (true positives, false positives), each [B, k], at each distinct score, highest first.

    A sample counts as positive if its score is at least the threshold. There are m ≥ 1 samples, and `weights` [B, m].
    """
    order = np.argsort(-score, kind="stable")
    last = np.flatnonzero(np.diff(score[order], append=np.nan) != 0)  # index of each group of equal scores
    ordered, true = weights[:, order], truth[order].astype(np.float64)
    counts = np.cumsum(ordered * true, axis=1), np.cumsum(ordered * (1 - true), axis=1)
    return counts if len(last) == len(order) else (counts[0][:, last], counts[1][:, last])


def weighted_areas(truth: Bools, score: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """(ROC AUC, average precision), each [B], of m samples under `weights` [B, m].

    The ROC AUC is the share of (positive, negative) pairs in the right order, where ties count half; the average
    precision is Σ (increase of recall) · precision. NaN in a row where the positives or the negatives have no weight.
    """
    if len(score) == 0:
        return np.full(len(weights), np.nan), np.full(len(weights), np.nan)
    true_positives, false_positives = weighted_counts(truth, score, weights)
    steps = np.diff(true_positives, axis=1, prepend=0)
    positive, negative = true_positives[:, -1], false_positives[:, -1]
    between = (false_positives[:, 1:] + false_positives[:, :-1]) / 2
    wrong = (steps[:, 1:] * between).sum(axis=1) + steps[:, 0] * false_positives[:, 0] / 2
    answered = np.maximum(true_positives + false_positives, 1)
    hits = (steps * true_positives / answered).sum(axis=1)
    both = np.where(negative > 0, positive, 0)
    return 1 - divide(wrong, positive * negative), divide(hits, both)


def interval(values: Floats) -> dict[str, Any]:
    """{"low", "high", "skipped"} of resampled values [B]; resamples in which the metric is undefined are NaN."""
    kept = values[~np.isnan(values)]
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(kept, [tail, 100 - tail]).tolist() if len(kept) else (None, None)
    return {"low": low, "high": high, "skipped": len(values) - len(kept)}


def divide(numerator: Floats, denominator: Floats) -> Floats:
    """Quotient of two arrays, with broadcasting; NaN where the denominator is 0."""
    shape = np.broadcast_shapes(numerator.shape, denominator.shape)
    quotient: Floats = np.divide(numerator, denominator, out=np.full(shape, np.nan), where=denominator > 0)
    return quotient
