"""The section `train` of a run's configuration: how long, and what happens once in a while."""

import re
from dataclasses import dataclass

from cxr_dist.errors import require


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, and what happens once in a while."""

    epochs: int = 20
    """Passes over the training split (steps per epoch = samples // global batch)."""
    max_steps: int = 0
    """Stop after this many optimizer steps; 0: no limit but epochs. The schedule spans the shorter of both."""
    max_minutes: float = 0
    """Save and end cleanly after this many minutes of this job; 0: no limit."""
    save_every: int = 0
    """Optimizer steps between checkpoints; 0: at each evaluation."""
    eval_every: int = 0
    """Optimizer steps between validations; 0: at the end of each epoch."""
    log_every: int = 10
    """Optimizer steps between lines of metrics.jsonl."""
    profile: str = ""
    """START:STOP, as 20:25: rank 0 records the steps of this start after the 20th up to the 25th, writes a trace for
    Perfetto or TensorBoard into RUN_DIR/profile and prints the ten largest costs. Changes no number. Empty: never."""
    keep_checkpoints: int = 2
    """Newest checkpoints kept besides the best one."""
    early_stopping_patience: int = 5
    """Evaluations without a better mean validation AUC before training ends; 0: never."""
    freeze_epochs: int = 0
    """Encoders are frozen for the first so many epochs."""
    mixup_alpha: float = 0.0
    """Mixup's Beta(α, α) on image and label; 0: off."""
    mixup_from_epoch: int = 3
    """First epoch (counted from 1) with mixup."""
    max_nonfinite_steps: int = 3
    """Updates left out in a row, because loss or gradient were not finite, before the run stops."""
    timeout_minutes: float = 10.0
    """The watchdog ends the job when no rank gets ahead for so long, or one does not join within it. A rank that
    died ends it at once, one that is silent within a minute."""

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
            f"train.profile is {self.profile!r}; expected START:STOP with START below STOP, as 20:25: the steps after "
            "this start's 20th, up to and with its 25th",
        )

    @property
    def profiled_steps(self) -> range:
        """Steps of a start that are recorded, counted from 0; empty for none."""
        start, _, stop = self.profile.partition(":")
        return range(int(start or 0), int(stop or 0))
