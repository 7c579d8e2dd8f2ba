"""The learning rate, and the decay of the average of the weights, as pure functions of the step."""

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


def ema_decay(config: OptimConfig, step: int) -> float:
    """Decay of the average of the weights in a step, counted from 0: min(ema_decay, 1 - (1 + step)^(-2/3)).

    This is the warm-up of timm's ModelEmaV3, with its gamma of 1 and power of 2/3. The first step has a decay of 0, so
    the average never contains the initial weights, and a short run forgets its start: at step 200 the decay is 0.971.
    """
    return min(config.ema_decay, 1.0 - math.pow(1 + step, -2 / 3))
