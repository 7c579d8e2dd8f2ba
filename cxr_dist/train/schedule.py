"""The learning rate as a pure function of the step, and the two rules that watch the validation AUC."""

import math
from dataclasses import dataclass

from cxr_dist.config_optim import OptimConfig


def learning_rate(config: OptimConfig, step: int, total_steps: int, plateau_scale: float = 1.0) -> float:
    """Learning rate of a step (counted from 0): linear warm-up, then the schedule.

    `linear` and `cosine` reach 0 at `total_steps`; `plateau_scale` is `Progress.plateau_scale`.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
    match config.schedule:
        case "linear":
            return config.lr * max(0.0, 1.0 - done)
        case "cosine":
            return config.lr * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
        case "plateau":
            return config.lr * plateau_scale
        case "constant":
            return config.lr


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What the validations so far have decided; part of the checkpoint."""

    validated_step: int = 0
    """Step of the last validation."""
    best_score: float | None = None
    """Highest mean validation AUC so far."""
    best_step: int = 0
    """Step of `best_score`."""
    stale: int = 0
    """Evaluations since `best_score`, for early stopping."""
    plateau_score: float | None = None
    """Highest score by more than 1e-4 (relative), as torch's ReduceLROnPlateau counts improvement."""
    plateau_bad: int = 0
    """Evaluations without improvement since the last one or the last reduction."""
    plateau_scale: float = 1.0
    """Product of all reductions of the learning rate so far."""

    def after(self, score: float | None, step: int, config: OptimConfig) -> "Progress":
        """The progress after one more validation; an undefined score counts as no improvement."""
        better = score is not None and (self.best_score is None or score > self.best_score)
        climbed = score is not None and (
            self.plateau_score is None or score > self.plateau_score * (1.0 + 1e-4)
        )
        bad = 0 if climbed else self.plateau_bad + 1
        reduce = bad > config.plateau_patience
        return Progress(
            validated_step=step,
            best_score=score if better else self.best_score,
            best_step=step if better else self.best_step,
            stale=0 if better else self.stale + 1,
            plateau_score=score if climbed else self.plateau_score,
            plateau_bad=0 if reduce else bad,
            plateau_scale=self.plateau_scale * (config.plateau_factor if reduce else 1.0),
        )
