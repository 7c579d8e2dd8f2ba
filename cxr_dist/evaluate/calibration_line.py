"""The calibration line: logit(observed) = intercept + slope · logit(predicted) (Cox, Biometrika 1958).

The intercept is 0 and the slope 1 if the probabilities are calibrated. A slope below 1 means that they are too extreme;
with a slope near 1, an intercept below 0 means that they are too high (Van Calster et al., BMC Medicine 2019).
"""

import numpy as np
from scipy.special import expit, logit

from cxr_dist.evaluate.arrays import Bools, Floats

_CLIP = (1e-15, 1 - 1e-15)  # so that logits are finite
_ITERATIONS = 100
_ENOUGH = 1e-10  # largest change of a coefficient in the last iteration


def calibration_line(probability: Floats, happened: Bools) -> dict[str, float | None]:
    """{"intercept", "slope"} of m predicted probabilities [m], by maximum likelihood (logistic regression).

    Both are None where no finite line fits best: without events, with nothing but events, for constant probabilities,
    and if every event has a higher probability than every other prediction (or every event a lower one).
    """
    x = logit(np.clip(probability, *_CLIP))
    if not happened.any() or happened.all() or _separates(x, happened):
        return {"intercept": None, "slope": None}
    design, y = np.stack([np.ones_like(x), x], axis=1), happened.astype(np.float64)
    line = np.array([logit(y.mean()), 0.0])
    for _ in range(_ITERATIONS):
        mean = expit(design @ line)
        curvature = (design * (mean * (1 - mean))[:, None]).T @ design
        step = np.linalg.solve(curvature, design.T @ (y - mean))
        while _loss(design, y, line + step) > _loss(design, y, line) + 1e-12:
            step = step / 2
        line = line + step
        if np.abs(step).max() < _ENOUGH:
            break
    return {"intercept": float(line[0]), "slope": float(line[1])}


def _separates(x: Floats, happened: Bools) -> bool:
    """Whether a threshold on x separates events from the others, or x is constant."""
    events, others = x[happened], x[~happened]
    return bool(events.min() >= others.max() or events.max() <= others.min())


def _loss(design: Floats, y: Floats, line: Floats) -> float:
    """Negative log-likelihood."""
    z = design @ line
    return float((np.logaddexp(0, z) - y * z).sum())
