"""The learning rate as a pure function of the step."""

import math

from cxr_dist.config.optim import OptimConfig


def learning_rate(config: OptimConfig, step: int, total_steps: int, plateau_scale: float = 1.0) -> float:
    """Learning rate of a step, counted from 0: linear warm-up, then the configured schedule.

    `linear` and `cosine` reach 0 at `total_steps`. `plateau_scale` is `Progress.plateau_scale`.
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
