"""Logits and labels to two sums, which cross ranks before the one division: loss = Σ loss_sum / Σ weight_sum.

Every formula is linear in the targets, so that the loss of mixed targets is the mixed loss. An unknown label
adds zero to both sums. Computed in float32 at least, also under autocast.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import functional

from cxr_dist.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ClassificationLoss:
    """Weighted cross-entropy or focal loss over classes (multiclass) or per class (multilabel)."""

    name: Literal["cross_entropy", "focal"]
    gamma: float
    """Focusing exponent of the focal loss; cross_entropy does not use it."""
    class_weights: Tensor | None
    """float [C]: multiclass, the weight of each class; multilabel, the weight of each class's positives."""
    task: Literal["multiclass", "multilabel"]

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
        BCEWithLogitsLoss(pos_weight) over known labels for multilabel. The focal loss multiplies each
        class's -log p_t by (1 - p_t)^gamma, p_t being the unweighted probability (Lin et al. 2017, eq. 4-5).
        """
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        weighted = targets * self._weights(logits)
        if self.task == "multiclass":
            return (known * weighted * self._focused(functional.log_softmax(logits, dim=-1))).sum()
        positive = self._focused(functional.logsigmoid(logits))
        negative = self._focused(functional.logsigmoid(-logits))
        return (known * (weighted * positive + (1 - targets) * negative)).sum()

    def weight_sum(self, targets: Tensor, known: Tensor) -> Tensor:
        """What the summed loss is divided by, a scalar: the targets' class weights, or the known labels."""
        if self.task == "multiclass":
            return (known * targets * self._weights(targets)).sum()
        return known.sum()

    def _weights(self, like: Tensor) -> Tensor:
        return like.new_ones(()) if self.class_weights is None else self.class_weights.to(like)

    def _focused(self, log_p: Tensor) -> Tensor:
        """-log p, for the focal loss times (1 - p)^gamma."""
        if self.name == "cross_entropy":
            return -log_p
        # At p = 1 the gradient of 0^gamma is infinite for gamma < 1; the smallest float ends it at 0.
        one_minus_p = (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny)
        return -log_p * one_minus_p**self.gamma


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
