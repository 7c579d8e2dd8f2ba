"""Uncertainty from Monte-Carlo dropout: many stochastic passes in, a few numbers per sample out.

Dropout at prediction time samples from an approximate posterior (Gal and Ghahramani, ICML 2016). The total
uncertainty of the mean prediction splits into what more data cannot remove and what the model does not know
(Houlsby et al. 2011; Depeweg et al., ICML 2018). All entropies are in nats.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cxr_dist.evaluate.arrays import Floats
from cxr_dist.format.manifest import Task


@dataclass(frozen=True, kw_only=True)
class McSummary:
    """What `passes` stochastic passes said about n samples and C classes."""

    mean: Floats
    """[n, C], mean probability over the passes."""
    variance: Floats
    """[n, C], population variance of the probability over the passes."""
    predictive_entropy: Floats
    """[n], entropy of the mean probabilities, nats: total uncertainty."""
    expected_entropy: Floats
    """[n], mean entropy of the single passes, nats: the part that lies in the data (aleatoric)."""
    passes: int

    def __post_init__(self) -> None:
        n = len(self.mean)
        assert self.mean.ndim == 2
        assert self.variance.shape == self.mean.shape
        assert self.predictive_entropy.shape == self.expected_entropy.shape == (n,)
        assert self.passes >= 1

    def select(self, rows: NDArray[np.int64]) -> "McSummary":
        """The samples at `rows`, [m] indices, in that order."""
        return McSummary(
            mean=self.mean[rows],
            variance=self.variance[rows],
            predictive_entropy=self.predictive_entropy[rows],
            expected_entropy=self.expected_entropy[rows],
            passes=self.passes,
        )

    @property
    def mutual_information(self) -> Floats:
        """[n], nats: how far the passes disagree (epistemic part). Rounding below 0 is clipped."""
        return np.maximum(self.predictive_entropy - self.expected_entropy, 0.0)


def entropy(probabilities: Floats, task: Task) -> Floats:
    """Entropy over the last axis, nats: of one distribution, or summed over independent yes/no labels."""
    terms = _negative_p_log_p(probabilities)
    if task == "multilabel":
        terms = terms + _negative_p_log_p(1.0 - probabilities)
    return np.asarray(terms.sum(axis=-1))


def _negative_p_log_p(p: Floats) -> Floats:
    # p log p tends to 0 at p = 0, where the logarithm itself is not finite.
    return -p * np.log(np.where(p > 0, p, 1.0))


def summarise(mc_probabilities: ArrayLike, task: Task) -> McSummary:
    """Reduce the probabilities of all passes, shape [P, n, C] in [0, 1], to their summary, in float64.

    Takes NumPy arrays and CPU tensors. Multilabel tasks sum the binary entropies of the classes.
    """
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


def most_uncertain_quarter(uncertainty: Floats) -> NDArray[np.bool_]:
    """[n] mask of the ⌈n/4⌉ most uncertain samples; among equals, the earlier sample counts as more uncertain."""
    order = np.argsort(-uncertainty, kind="stable")
    mask = np.zeros(len(uncertainty), dtype=np.bool_)
    mask[order[: -(-len(uncertainty) // 4)]] = True
    return mask


def quarter_figures(uncertainty: Floats, right: NDArray[np.bool_]) -> dict[str, Any]:
    """Do mistakes gather where the model is unsure? Shares are None for a group without samples.

    `share_misclassified` is taken among the most uncertain quarter, `share_correct` among the rest.
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
