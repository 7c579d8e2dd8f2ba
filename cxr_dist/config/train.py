"""The section `train` of a run's configuration: the length of the run and its periodic actions."""

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from cxr_dist.config.range import Range, check_ranges
from cxr_dist.errors import require


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The length of the run and its periodic actions."""

    epochs: Annotated[int, Range(min=1)] = 20
    """Number of passes over the training split, at least 1. An epoch has samples // global_batch steps."""
    max_steps: Annotated[int, Range(min=0)] = 0
    """Maximum number of optimizer steps; 0: limited by `epochs` only. The learning-rate schedule spans the shorter."""
    max_minutes: Annotated[float, Range(min=0)] = 0
    """Save and stop after this many minutes of this job; 0: no limit."""
    save_every: Annotated[int, Range(min=0)] = 0
    """Number of optimizer steps between checkpoints; 0: a checkpoint at each validation."""
    eval_every: Annotated[int, Range(min=0)] = 0
    """Number of optimizer steps between validations; 0: a validation at the end of each epoch."""
    log_every: Annotated[int, Range(min=1)] = 10
    """Number of optimizer steps between lines of metrics.jsonl, at least 1."""
    tensorboard_scalars: Literal["main", "all"] = "main"
    """`main`: TensorBoard shows the main metrics of a validation and the ROC AUC of each class; `all`: every metric of
    every class, and how many samples of each class were drawn."""
    profile: str = ""
    """START:STOP, for example 20:25 to record steps 21 to 25 after each start of the run on rank 0. Writes a trace for
    Perfetto or TensorBoard to RUN_DIR/profile and prints the ten most expensive operations. Empty: no profile."""
    keep_checkpoints: Annotated[int, Range(min=1)] = 2
    """Number of newest checkpoints to keep in addition to the best one, at least 1."""
    early_stopping_patience: Annotated[int, Range(min=0)] = 5
    """Number of validations without a better mean AUC before training stops; 0: no early stopping."""
    freeze_epochs: Annotated[int, Range(min=0)] = 0
    """Number of epochs at the beginning during which the encoders are frozen."""
    mixup_alpha: Annotated[float, Range(min=0)] = 0.0
    """Parameter α of mixup's Beta(α, α) distribution on images and labels; 0: no mixup."""
    mixup_from_epoch: Annotated[int, Range(min=1)] = 3
    """First epoch with mixup, counted from 1."""
    max_nonfinite_steps: Annotated[int, Range(min=0)] = 3
    """Number of consecutive updates skipped for a loss or gradient that is not finite before the run stops."""
    timeout_minutes: Annotated[float, Range(above=0, max=1_000_000)] = 10.0
    """Minutes after which the watchdog ends the job if no rank makes progress or a rank has not joined, positive. The
    job ends at once if a rank dies, and within a minute if a rank stops responding."""

    def __post_init__(self) -> None:
        check_ranges(self, "train")
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
