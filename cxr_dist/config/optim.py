"""The sections of config/run.py that say what is minimised, and how: loss, optimizer, learning rate.

Imports nothing but the standard library, as config/run.py.
"""

from dataclasses import dataclass
from typing import Literal

from cxr_dist.errors import UserError


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The loss. Multilabel tasks use the binary form of the same loss."""

    name: str = "cross_entropy"
    """`cross_entropy`; `focal`: Lin et al. 2017, with p_t the unweighted probability; or one of your own, MODULE:NAME
    or FILE.py:NAME, as model/losses.py and examples/own_loss show."""
    gamma: float = 2.0
    """Focusing exponent of the focal loss, and a number for a loss of your own."""
    class_weights: Literal["none", "balanced"] = "balanced"
    """`balanced`: n / (classes × n_class), as scikit-learn has it, from the training split's counts."""

    def __post_init__(self) -> None:
        if self.gamma < 0:
            raise UserError(f"loss.gamma is {self.gamma}; it must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimizer and its learning-rate schedule."""

    name: Literal["adam", "adamw"] = "adamw"
    """`adam` adds weight decay to the gradient; `adamw` decays the weights."""
    lr: float = 2e-4
    """Peak learning rate."""
    weight_decay: float = 0.01
    """Applied to all parameters, as the original did."""
    clip_norm: float = 1.0
    """Gradients are scaled down to this total norm; 0 turns clipping off."""
    schedule: Literal["constant", "linear", "cosine", "plateau"] = "linear"
    """After warm-up: constant, decay to 0 over the run, or halve on a plateau of the validation AUC."""
    warmup_steps: int = 0
    """Optimizer steps of linear warm-up from 0."""
    plateau_factor: float = 0.5
    """`plateau`: the learning rate is multiplied by this."""
    plateau_patience: int = 2
    """`plateau`: after this many evaluations without improvement."""
    ema_decay: float = 0.0
    """After each update: average = decay * average + (1 - decay) * weight, from the first weights on, without a
    warm-up of the decay. Validation, checkpoints' models and all that reads them have the average. 0: off."""

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise UserError(f"optim.lr is {self.lr}; it must be positive")
        if self.warmup_steps < 0:
            raise UserError("optim.warmup_steps must be 0 or more")
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"optim.ema_decay is {self.ema_decay}; expected 0 (off) to below 1, as 0.999")
