"""Uncertainty from Monte-Carlo dropout: summarises many stochastic passes as a few numbers per sample.

Dropout at prediction time samples from an approximate posterior (Gal and Ghahramani, ICML 2016). The total
uncertainty of the mean prediction is the sum of an aleatoric part, which more data cannot reduce, and an epistemic
part, the mutual information (Houlsby et al. 2011; Depeweg et al., ICML 2018). All entropies are in nats.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cxr_dist.evaluate.arrays import Bools, Floats
from cxr_dist.format.manifest import Task


@dataclass(frozen=True, kw_only=True)
class McSummary:
    """Summary of `passes` stochastic passes over n samples and C classes."""

    mean: Floats
    """[n, C], mean probability over the passes."""
    variance: Floats
    """[n, C], population variance of the probability over the passes."""
    predictive_entropy: Floats
    """[n], entropy of the mean probabilities, in nats: the total uncertainty."""
    expected_entropy: Floats
    """[n], mean of the entropies of the single passes, in nats: the aleatoric part."""
    passes: int

    def __post_init__(self) -> None:
        n = len(self.mean)
        assert self.mean.ndim == 2
        assert self.variance.shape == self.mean.shape
        assert self.predictive_entropy.shape == self.expected_entropy.shape == (n,)
        assert self.passes >= 1

    def select(self, rows: NDArray[np.int64]) -> "McSummary":
        """The samples at `rows`, [m] indices, in that order."""
        names = ("mean", "variance", "predictive_entropy", "expected_entropy")
        return dataclasses.replace(self, **{name: getattr(self, name)[rows] for name in names})

    @property
    def mutual_information(self) -> Floats:
        """[n], disagreement of the passes in nats: the epistemic part. Negative rounding errors are clipped to 0."""
        return np.maximum(self.predictive_entropy - self.expected_entropy, 0.0)


def entropy(probabilities: Floats, task: Task) -> Floats:
    """Entropy in nats over the last axis: of one distribution, or summed over independent binary labels."""
    terms = _negative_p_log_p(probabilities)
    if task == "multilabel":
        terms = terms + _negative_p_log_p(1.0 - probabilities)
    return np.asarray(terms.sum(axis=-1))


def _negative_p_log_p(p: Floats) -> Floats:
    # p log p tends to 0 as p does, but log 0 is not finite.
    return -p * np.log(np.where(p > 0, p, 1.0))


def summarise(mc_probabilities: ArrayLike, task: Task) -> McSummary:
    """Summarise, in float64, the probabilities of all passes, [P, n, C] in [0, 1], a NumPy array or a CPU tensor."""
    probabilities = np.asarray(mc_probabilities, dtype=np.float64)
    assert probabilities.ndim == 3, f"expected [passes, n, classes], got {probabilities.shape}"
    mean = probabilities.mean(axis=0)
    return McSummary(
        mean=mean,
        variance=probabilities.var(axis=0),
        predictive_entropy=entropy(mean, task),
        expected_entropy=entropy(probabilities, task).mean(axis=0),
        passes=len(probabilities),
    )


def most_uncertain_quarter(uncertainty: Floats) -> Bools:
    """[n] mask of the ⌈n/4⌉ most uncertain samples; of equally uncertain samples the earlier are taken first."""
    order = np.argsort(-uncertainty, kind="stable")
    mask = np.zeros(len(uncertainty), dtype=np.bool_)
    mask[order[: -(-len(uncertainty) // 4)]] = True
    return mask


def quarter_figures(uncertainty: Floats, right: Bools) -> dict[str, Any]:
    """Whether mistakes concentrate in the most uncertain quarter of the samples.

    `share_misclassified` is a share of that quarter, `share_correct` of the rest; None for a group without samples.
    """
    quarter = most_uncertain_quarter(uncertainty)
    wrong_inside, right_outside = int((quarter & ~right).sum()), int((~quarter & right).sum())
    inside, outside = int(quarter.sum()), int((~quarter).sum())
    return {
        "most_uncertain_quarter": {
            "n": inside,
            "misclassified": wrong_inside,
            "share_misclassified": wrong_inside / inside if inside else None,
        },
        "rest": {
            "n": outside,
            "correct": right_outside,
            "share_correct": right_outside / outside if outside else None,
        },
    }
