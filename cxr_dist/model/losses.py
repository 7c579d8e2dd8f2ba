"""Logits and labels to two sums, which cross ranks before the one division: loss = Σ loss_sum / Σ weight_sum.

Every formula is linear in the targets, so that the loss of mixed targets is the mixed loss. An unknown label
adds zero to both sums. Computed in float32 at least, also under autocast.

A loss of the user's own is MODULE:NAME or FILE.py:NAME, as examples/own_loss/loss.py:

    NAME(logits, positive, task, gamma) -> Tensor [b, C]

From logits, float [b, C], it computes the loss of each sample if the label of each class is positive (in a multiclass
task: if that is its class), or, where `positive` is False, negative; multiclass tasks never ask for that. `task` is
`multiclass` or `multilabel`, `gamma` is `loss.gamma`. It never sees a label: targets, mixup, unknown labels, class
weights and the sum over samples and ranks are the package's, and so no loss can break them.
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
"""From logits [b, C], whether labels are positive, the task and gamma to the loss [b, C] of such a label."""


def log_probability(logits: Tensor, positive: bool, task: Task) -> Tensor:
    """Logits [b, C] to the log-probability [b, C] that a label is positive, or negative (multilabel alone)."""
    if task == "multiclass":
        return functional.log_softmax(logits, dim=-1)
    return functional.logsigmoid(logits if positive else -logits)


def cross_entropy(logits: Tensor, positive: bool, task: Task, gamma: float) -> Tensor:
    """-log p."""
    return -log_probability(logits, positive, task)


def focal(logits: Tensor, positive: bool, task: Task, gamma: float) -> Tensor:
    """-log p · (1 - p)^gamma (Lin et al. 2017, eq. 4-5), p being the unweighted probability."""
    log_p = log_probability(logits, positive, task)
    # At p = 1 the gradient of 0^gamma is infinite for gamma < 1; the smallest float ends it at 0.
    one_minus_p = (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny)
    return -log_p * one_minus_p**gamma


LOSSES: dict[str, LossOfLabel] = {"cross_entropy": cross_entropy, "focal": focal}


@dataclass(frozen=True, kw_only=True)
class ClassificationLoss:
    """A weighted loss over classes (multiclass) or per class (multilabel)."""

    name: str
    """One of LOSSES, or one of the user's own."""
    gamma: float
    """Focusing exponent of the focal loss; cross_entropy does not use it."""
    class_weights: Tensor | None
    """float [C]: multiclass, the weight of each class; multilabel, the weight of each class's positives."""
    task: Task

    @cached_property
    def _of_label(self) -> LossOfLabel:
        found: LossOfLabel = look_up("loss", self.name, LOSSES)
        return found

    def of_label(self, logits: Tensor, *, positive: bool) -> Tensor:
        """Logits to the loss, both [b, C], of a label that is positive or negative; no weights enter."""
        return self._of_label(logits, positive, self.task, self.gamma)

    def targets(self, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """Labels int64 [b, L] to targets float [b, C] (1 = the class is present) and known float [b, C].

        Targets are 0 where the label is unknown (-1).
        """
        if self.task == "multiclass":
            targets = labels == torch.arange(num_classes, device=labels.device)
            known = (labels >= 0).expand(-1, num_classes)
        else:
            targets, known = labels == 1, labels >= 0
        return targets.float(), known.float()

    def sums(self, logits: Tensor, targets: Tensor, known: Tensor) -> Tensor:
        """The summed loss, a scalar. Logits, targets (0 to 1) and known (0 or 1) are [b, C].

        Divided by `weight_sum`, cross-entropy equals torch's CrossEntropyLoss(weight) for multiclass and
        BCEWithLogitsLoss(pos_weight) over known labels for multilabel.
        """
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        weighted = targets * self._weights(logits)
        positive = self.of_label(logits, positive=True)
        if self.task == "multiclass":
            return (known * weighted * positive).sum()
        negative = self.of_label(logits, positive=False)
        return (known * (weighted * positive + (1 - targets) * negative)).sum()

    def weight_sum(self, targets: Tensor, known: Tensor) -> Tensor:
        """What the summed loss is divided by, a scalar: the targets' class weights, or the known labels."""
        if self.task == "multiclass":
            return (known * targets * self._weights(targets)).sum()
        return known.sum()

    def _weights(self, like: Tensor) -> Tensor:
        return like.new_ones(()) if self.class_weights is None else self.class_weights.to(like)


def balanced_class_weights(counts: ArrayLike) -> Tensor:
    """Multiclass weights float32 [C], n / (C · n_c) as scikit-learn's `class_weight="balanced"`, from counts [C].

    Raises UserError for a class without a sample, which has no finite weight.
    """
    samples = _counted(counts)
    return torch.tensor(samples.sum() / (len(samples) * samples), dtype=torch.float32)


def balanced_positive_weights(positives: ArrayLike, negatives: ArrayLike) -> Tensor:
    """Multilabel weights of the positives, float32 [C]: n_negative / n_positive, the two balanced weights' ratio.

    Raises UserError for a class without a positive or without a negative.
    """
    return torch.tensor(_counted(negatives) / _counted(positives), dtype=torch.float32)


def _counted(counts: ArrayLike) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    samples = np.asarray(counts, dtype=np.float64)
    if (samples <= 0).any():
        raise UserError(
            f"class {int(np.argmin(samples))} (counted from 0) has no sample of a kind in the training split, so "
            "it has no balanced weight: shard again with another split, or use --loss.class-weights none"
        )
    return samples
