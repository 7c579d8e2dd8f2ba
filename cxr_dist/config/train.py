"""The section `train` of a run's configuration: the length of the run and its periodic actions."""

import re
from dataclasses import dataclass

from cxr_dist.errors import require


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The length of the run and its periodic actions."""

    epochs: int = 20
    """Number of passes over the training split, at least 1. An epoch has samples // global_batch steps."""
    max_steps: int = 0
    """Maximum number of optimizer steps; 0: limited by `epochs` only. The learning-rate schedule spans the shorter."""
    max_minutes: float = 0
    """Save and stop after this many minutes of this job; 0: no limit."""
    save_every: int = 0
    """Number of optimizer steps between checkpoints; 0: a checkpoint at each validation."""
    eval_every: int = 0
    """Number of optimizer steps between validations; 0: a validation at the end of each epoch."""
    log_every: int = 10
    """Number of optimizer steps between lines of metrics.jsonl, at least 1."""
    profile: str = ""
    """START:STOP, for example 20:25 to record steps 21 to 25 after each start of the run on rank 0. Writes a trace for
    Perfetto or TensorBoard to RUN_DIR/profile and prints the ten most expensive operations. Empty: no profile."""
    keep_checkpoints: int = 2
    """Number of newest checkpoints to keep in addition to the best one, at least 1."""
    early_stopping_patience: int = 5
    """Number of validations without a better mean AUC before training stops; 0: no early stopping."""
    freeze_epochs: int = 0
    """Number of epochs at the beginning during which the encoders are frozen."""
    mixup_alpha: float = 0.0
    """Parameter α of mixup's Beta(α, α) distribution on images and labels; 0: no mixup."""
    mixup_from_epoch: int = 3
    """First epoch with mixup, counted from 1."""
    max_nonfinite_steps: int = 3
    """Number of consecutive updates skipped for a loss or gradient that is not finite before the run stops."""
    timeout_minutes: float = 10.0
    """Minutes after which the watchdog ends the job if no rank makes progress or a rank has not joined, positive. The
    job ends at once if a rank dies, and within a minute if a rank stops responding."""

    def __post_init__(self) -> None:
        require(self.epochs >= 1, f"train.epochs is {self.epochs}; it must be at least 1")
        for name in ("max_steps", "save_every", "eval_every", "early_stopping_patience", "freeze_epochs"):
            require(getattr(self, name) >= 0, f"train.{name} must be 0 or more")
        require(self.log_every >= 1, "train.log_every must be at least 1")
        require(self.keep_checkpoints >= 1, "train.keep_checkpoints must be at least 1")
        require(self.mixup_alpha >= 0, "train.mixup_alpha must be 0 or more")
        require(self.timeout_minutes > 0, "train.timeout_minutes must be positive")
        require(
            not self.profile or bool(re.fullmatch(r"\d{1,9}:\d{1,9}", self.profile) and self.profiled_steps),
            f"train.profile is {self.profile!r}; expected START:STOP with START below STOP, such as 20:25 for steps 21 "
            "to 25 after the start",
        )

    @property
    def profiled_steps(self) -> range:
        """Steps to record, counted from 0 at the start of the process; empty for none."""
        start, _, stop = self.profile.partition(":")
        return range(int(start or 0), int(stop or 0))
