"""A loss of your own: cross-entropy with label smoothing (Szegedy et al. 2016), for multiclass and multilabel tasks.

    cxr-dist train demo --data.shards SHARDS --loss.name examples/own_loss/loss.py:smoothed

The protocol is in cxr_dist/model/losses.py: a loss says what each label would cost, and never sees one. Class weights,
mixup and unknown labels are as with every other loss.
"""

from torch import Tensor

from cxr_dist.format.manifest import Task
from cxr_dist.model.losses import log_probability

SMOOTHING = 0.1


def smoothed(logits: Tensor, positive: bool, task: Task, gamma: float) -> Tensor:
    """Logits [b, C] to the loss [b, C] of each class being the sample's, or of each label being positive or not."""
    loss = -log_probability(logits, positive, task)
    if task == "multiclass":
        others = loss.mean(dim=1, keepdim=True)  # a share of the label goes to all classes alike
    else:
        others = (loss - log_probability(logits, not positive, task)) / 2
    return (1 - SMOOTHING) * loss + SMOOTHING * others
