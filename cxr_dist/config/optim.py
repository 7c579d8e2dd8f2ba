"""The sections `loss` and `optim` of a run's configuration."""

from dataclasses import dataclass
from typing import Annotated, Literal

from cxr_dist.config.range import Range, check_ranges


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The loss. Multilabel tasks use the binary form of the same loss."""

    name: str = "cross_entropy"
    """`cross_entropy`, `focal` (Lin et al. 2017, with p_t the unweighted probability), or your own loss as MODULE:NAME
    or FILE.py:NAME, described in model/losses.py and examples/own_loss."""
    gamma: Annotated[float, Range(min=0)] = 2.0
    """Focusing exponent of the focal loss, at least 0. It is also passed to your own loss."""
    class_weights: Literal["none", "balanced", "original"] = "balanced"
    """`balanced` weights each class by n / (classes × n_class), as scikit-learn, where n_class is how often training
    draws the class: with data.sampling weighted, both together compensate the imbalance once. `original` is the
    arithmetic of the original notebook, which counts the training split's samples and so compensates twice."""

    def __post_init__(self) -> None:
        check_ranges(self, "loss")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimizer and its learning-rate schedule."""

    name: Literal["adam", "adamw"] = "adamw"
    """`adam` adds the weight decay to the gradient; `adamw` decays the weights directly."""
    lr: Annotated[float, Range(above=0)] = 2e-4
    """Peak learning rate, positive."""
    weight_decay: Annotated[float, Range(min=0)] = 0.01
    """Weight decay of all parameters."""
    clip_norm: Annotated[float, Range(min=0)] = 1.0
    """Maximum total norm of the gradients; 0 turns clipping off."""
    schedule: Literal["constant", "linear", "cosine", "plateau"] = "linear"
    """Learning rate after the warm-up: `linear` and `cosine` decay to 0 over the run; `plateau` reduces it when the
    mean validation AUC stops improving."""
    warmup_steps: Annotated[int, Range(min=0)] = 0
    """Number of optimizer steps over which the learning rate rises linearly from 0, at least 0."""
    plateau_factor: Annotated[float, Range(above=0, max=1)] = 0.5
    """Factor by which the `plateau` schedule multiplies the learning rate."""
    plateau_patience: Annotated[int, Range(min=0)] = 2
    """Number of validations without improvement before the `plateau` schedule reduces the learning rate."""
    ema_decay: Annotated[float, Range(min=0, below=1)] = 0.0
    """Decay of the exponential moving average of the weights and of BatchNorm's running statistics, 0 (off) to below 1.
    After each update, average = decay * average + (1 - decay) * weight. The decay rises from 0 at the first step, as
    min(ema_decay, 1 - (1 + step)^(-2/3)). Validation uses the average, and checkpoints hold it as the model."""

    def __post_init__(self) -> None:
        check_ranges(self, "optim")
