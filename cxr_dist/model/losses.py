"""Classification losses as two sums, which are added over ranks before one division: loss = Σ loss_sum / Σ weight_sum.

All formulas are linear in the targets, so the loss of mixed targets is the mixture of the losses. An unknown label adds
zero to both sums. Losses are computed in float32 or float64, also under autocast.

A loss that the user writes is named MODULE:NAME or FILE.py:NAME. For an example see examples/own_loss/loss.py.

    NAME(logits, positive, task, gamma) -> Tensor [b, C]

From logits, float [b, C], it computes the loss of each sample and class as if the label of that class were positive (in
a multiclass task: as if it were the sample's class), or negative if `positive` is False, which does not occur in
multiclass tasks. `task` is `multiclass` or `multilabel`, and `gamma` is `loss.gamma`. The function gets no labels: the
package handles targets, mixup, unknown labels, class weights and the sums over samples and ranks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import functional

from cxr_dist.config.lookup import look_up
from cxr_dist.errors import UserError
from cxr_dist.format.manifest import Task

LossOfLabel = Callable[[Tensor, bool, Task, float], Tensor]
"""A function (logits [b, C], positive, task, gamma) -> loss [b, C] of a positive or a negative label."""


def log_probability(logits: Tensor, positive: bool, task: Task) -> Tensor:
    """The log-probability [b, C] that a label is positive, or negative (multilabel only), from logits [b, C]."""
    if task == "multiclass":
        return functional.log_softmax(logits, dim=-1)
    return functional.logsigmoid(logits if positive else -logits)


def cross_entropy(logits: Tensor, positive: bool, task: Task, gamma: float) -> Tensor:
    """-log p."""
    return -log_probability(logits, positive, task)


def focal(logits: Tensor, positive: bool, task: Task, gamma: float) -> Tensor:
    """-log p · (1 - p)^gamma (Lin et al. 2017, eq. 4-5), where p is the unweighted probability."""
    log_p = log_probability(logits, positive, task)
    # At p = 1 the gradient of 0^gamma is infinite for gamma < 1, so 1 - p is at least the smallest float.
    one_minus_p = (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny)
    return -log_p * one_minus_p**gamma


LOSSES: dict[str, LossOfLabel] = {"cross_entropy": cross_entropy, "focal": focal}


@dataclass(frozen=True, kw_only=True)
class ClassificationLoss:
    """A weighted loss over classes (multiclass) or per class (multilabel)."""

    name: str
    """A name in LOSSES, or MODULE:NAME or FILE.py:NAME."""
    gamma: float
    """Focusing exponent of the focal loss; cross_entropy does not use it."""
    class_weights: Tensor | None
    """float [C], the weights of the classes (multiclass) or of the positives of each class (multilabel)."""
    task: Task

    @cached_property
    def _function(self) -> LossOfLabel:
        function: LossOfLabel = look_up("loss", self.name, LOSSES)
        return function

    def of_label(self, logits: Tensor, *, positive: bool) -> Tensor:
        """The unweighted loss [b, C] of positive or of negative labels, from logits [b, C]."""
        return self._function(logits, positive, self.task, self.gamma)

    def targets(self, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """Labels int64 [b, L] to targets float [b, C] (1 if the class is present) and known float [b, C].

        Targets are 0 if the label is unknown (-1).
        """
        if self.task == "multiclass":
            targets = labels == torch.arange(num_classes, device=labels.device)
            known = (labels >= 0).expand(-1, num_classes)
        else:
            targets, known = labels == 1, labels >= 0
        return targets.float(), known.float()

    def sums(self, logits: Tensor, targets: Tensor, known: Tensor) -> Tensor:
        """The summed loss, a scalar. Logits, targets (0 to 1) and known (0 or 1) are [b, C].

        Cross-entropy divided by `weight_sum` equals torch's CrossEntropyLoss(weight) for multiclass tasks and
        BCEWithLogitsLoss(pos_weight) over known labels for multilabel tasks.
        """
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        weighted = targets * self._weights(logits)
        positive = self.of_label(logits, positive=True)
        if self.task == "multiclass":
            return (known * weighted * positive).sum()
        negative = self.of_label(logits, positive=False)
        return (known * (weighted * positive + (1 - targets) * negative)).sum()

    def weight_sum(self, targets: Tensor, known: Tensor) -> Tensor:
        """The divisor of the summed loss, a scalar: the sum of the targets' class weights, or of the known labels."""
        if self.task == "multiclass":
            return (known * targets * self._weights(targets)).sum()
        return known.sum()

    def _weights(self, like: Tensor) -> Tensor:
        return like.new_ones(()) if self.class_weights is None else self.class_weights.to(like)


def balanced_class_weights(counts: ArrayLike) -> Tensor:
    """Multiclass weights float32 [C] from counts [C]: n / (C · n_c), as with scikit-learn's `class_weight="balanced"`.

    Raises UserError for a class without samples, which has no finite weight.
    """
    samples = _counted(counts)
    return torch.tensor(samples.sum() / (len(samples) * samples), dtype=torch.float32)


def balanced_positive_weights(positives: ArrayLike, negatives: ArrayLike) -> Tensor:
    """Multilabel weights of the positives, float32 [C]: n_negative / n_positive, the ratio of the balanced weights.

    Raises UserError for a class without positives or without negatives.
    """
    return torch.tensor(_counted(negatives) / _counted(positives), dtype=torch.float32)


def _counted(counts: ArrayLike) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    samples = np.asarray(counts, dtype=np.float64)
    if (samples <= 0).any():
        raise UserError(
            f"class {int(np.argmin(samples))} (counted from 0) has no positive or no negative sample in the training "
            "split, so it has no balanced weight: shard again with another split, or use --loss.class-weights none"
        )
    return samples
