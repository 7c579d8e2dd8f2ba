"""A user-defined loss: cross-entropy with label smoothing (Szegedy et al. 2016), multiclass and multilabel.

    cxr-dist train demo --data.shards SHARDS --loss.name examples/own_loss/loss.py:smoothed

The protocol is in cxr_dist/model/losses.py: a loss function gives the loss of every possible label and never sees the
actual one. Class weights, mixup and unknown labels work as with every other loss.
"""

from torch import Tensor

from cxr_dist.format.manifest import Task
from cxr_dist.model.losses import log_probability

SMOOTHING = 0.1


def smoothed(logits: Tensor, positive: bool, task: Task, gamma: float) -> Tensor:
    """The loss [b, C] if each class were the true one, or if each label were positive or not; logits are [b, C]."""
    loss = -log_probability(logits, positive, task)
    if task == "multiclass":
        others = loss.mean(dim=1, keepdim=True)  # the smoothed share is spread over all classes equally
    else:
        others = (loss - log_probability(logits, not positive, task)) / 2
    return (1 - SMOOTHING) * loss + SMOOTHING * others
