"""Differences of two runs on the same samples, with a 95% interval and a p-value for each metric.

Differences are paired, because an image that is hard for one run is usually hard for the other. The bootstrap over
patients serves every metric except the ROC AUC of a class, for which DeLong's test is used, with patients as
clusters. p-values are two-sided; `holm` adjusts those of one family for their number.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

from cxr_dist.evaluate.arrays import Bools, Floats
from cxr_dist.evaluate.bootstrap import LEVEL, interval
from cxr_dist.evaluate.intervals import MetricPath, Resampled
from cxr_dist.evaluate.predictions import Predictions

_ROUNDING = 1e-13
"""A smaller difference of two AUCs, or standard error of one, is a rounding error."""
_FEW_PATIENTS = "fewer than two patients with positive images, or with negative images"
_NO_VARIANCE = "the difference has no variance in this sample, so DeLong's test cannot be computed"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A metric of one run minus that of another; None where undefined."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    """Not adjusted for the number of comparisons."""
    p_floor: float | None = None
    """The smallest p that this number of resamples can give; None for a test without such a bound."""
    p_holm: float | None = None
    """p adjusted by `holm`; None for a difference that belongs to no family."""
    method: str
    reason: str | None = None
    """Why the difference of a metric that both runs have has no p-value."""

    @property
    def is_at_floor(self) -> bool:
        """Whether more resamples could give a smaller p."""
        return self.p is not None and self.p_floor is not None and self.p <= self.p_floor


def bootstrap_difference(
    values: tuple[float | None, float | None], resamples: tuple[Resampled, Resampled], path: MetricPath
) -> Difference:
    """First minus second, from resamples of the same patients.

    p is the smallest level at which the percentile interval excludes 0 (Efron and Tibshirani 1993, chapter 15), with
    one added to both counts, so that it is never 0.
    """
    first, second = values
    if first is None or second is None:
        return Difference(method="paired bootstrap")
    differences = resamples[0][path] - resamples[1][path]
    kept, bounds = differences[~np.isnan(differences)], interval(differences)
    tail = min((kept <= 0).sum(), (kept >= 0).sum())
    return Difference(
        value=first - second,
        low=bounds["low"],
        high=bounds["high"],
        p=min(1.0, 2 * float(tail + 1) / (len(kept) + 1)) if len(kept) else None,
        p_floor=min(1.0, 2 / (len(kept) + 1)) if len(kept) else None,
        method="paired bootstrap",
    )


def holm(family: Sequence[Difference]) -> list[Difference]:
    """The differences with `p_holm`, adjusted for their number (Holm, Scandinavian Journal of Statistics 1979).

    The k-th smallest of m p-values is multiplied by m - k + 1, and is at least the adjusted value of the one before.
    A difference without a p-value is not counted.
    """
    order = sorted((i for i, each in enumerate(family) if each.p is not None), key=lambda i: family[i].p or 0.0)
    adjusted, largest = list(family), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * (family[i].p or 0.0)))
        adjusted[i] = replace(family[i], p_holm=largest)
    return adjusted


def p_text(difference: Difference) -> str:
    """`p = 0.034`, `p ≤ 0.002` at the floor of the bootstrap, and the adjusted value where there is one."""
    if difference.p is None:
        return "p not defined"
    adjusted = difference.p_holm
    if difference.is_at_floor:
        text = f"p ≤ {difference.p:.2g}"
        return text if adjusted is None else f"{text}, adjusted ≤ {adjusted:.2g}"
    text = _rounded("p ", difference.p)
    return text if adjusted is None else text + _rounded(", adjusted ", adjusted).replace("= ", "")


def _rounded(name: str, p: float) -> str:
    return f"{name}< 0.001" if p < 0.001 else f"{name}= {p:.3f}"


def auc_difference(a: Predictions, b: Predictions, index: int) -> Difference:
    """ROC AUC of class `index` in `a` minus that in `b`; both hold the same samples in the same order."""
    one, other = a.one_class(index), b.one_class(index)
    return delong(one.truth, one.score, other.score, np.array(a.patients)[one.known])


def delong(truth: Bools, first: Floats, second: Floats, patients: NDArray[Any]) -> Difference:
    """AUC of `first` minus AUC of `second`, both [m] scores of the same samples, by DeLong et al. (1988).

    The samples of a patient form one cluster (Obuchowski, Biometrics 1997); with one sample per patient this is
    DeLong's original test. The value is None without positives or without negatives; p and interval are None if fewer
    than two patients have positives, or fewer than two have negatives. They are also None where the AUCs differ and the
    variance is 0, as for a perfect score against a constant one: all pairs differ alike, and the test cannot tell how
    much another sample would differ. Two scores that rank alike have p = 1.
    """
    if not truth.any() or truth.all():
        return Difference(method="DeLong")
    (above, below), (other_above, other_below) = placements(truth, first), placements(truth, second)
    value = float((above - other_above).mean())
    variance = clustered_variance(truth, above - other_above, below - other_below, patients)
    if variance is None:
        return Difference(value=value, method="DeLong", reason=_FEW_PATIENTS)
    error = float(np.sqrt(variance))
    if error < _ROUNDING < abs(value):
        return Difference(value=value, method="DeLong", reason=_NO_VARIANCE)
    half = float(norm.isf((1 - LEVEL) / 2)) * error
    p = float(2 * norm.sf(abs(value) / error)) if error >= _ROUNDING else 1.0
    return Difference(value=value, low=value - half, high=value + half, p=p, method="DeLong")


def placements(truth: Bools, score: Floats) -> tuple[Floats, Floats]:
    """The structural components: (share of negatives below each positive, share of positives above each negative).

    Ties count half. The mean of either is the AUC. Computed from midranks in O(m log m) (Sun and Xu, IEEE Signal
    Processing Letters 2014).
    """
    ranks, positive, negative = rankdata(score), score[truth], score[~truth]
    above = (ranks[truth] - rankdata(positive)) / len(negative)
    below = 1 - (ranks[~truth] - rankdata(negative)) / len(positive)
    return above, below


def clustered_variance(
    truth: Bools, of_positives: Floats, of_negatives: Floats, patients: NDArray[Any]
) -> float | None:
    """Variance of the mean component, with patients [m] as clusters (Obuchowski 1997, equations 3 to 5).

    None if fewer than two patients have positives, or negatives. If the components are differences, this is the
    variance of the difference.
    """
    _, cluster = np.unique(patients, return_inverse=True)
    size, value = int(cluster.max()) + 1, of_positives.mean()
    spread, share = [], []
    for chosen, components in ((truth, of_positives), (~truth, of_negatives)):
        sums = np.bincount(cluster[chosen], components - value, minlength=size)
        number = len(np.unique(cluster[chosen]))
        if number < 2:
            return None
        share.append(sums / chosen.sum())
        spread.append(number / (number - 1) * (share[-1] ** 2).sum())
    crossed = size / (size - 1) * (share[0] * share[1]).sum()
    return float(max(0.0, spread[0] + spread[1] + 2 * crossed))
