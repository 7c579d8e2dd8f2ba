"""Whether probabilities mean what they say: reliability bins, calibration error, Brier score, temperature.

Takes probabilities and what happened; the temperature is fitted on one split (validation) to be applied to
another. Everything is judged in float64.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_softmax, logit

from cxr_dist.evaluate.arrays import Bools, Floats
from cxr_dist.format.manifest import UNKNOWN, Task

LabelArray = NDArray[np.int16]
BINS = 10
TEMPERATURES = (0.05, 20.0)
"""Where a temperature is looked for."""
_SMALLEST = 1e-15  # a probability nearer to 0 or 1 has no finite logit


class NoTemperature(Exception):
    """The validation split does not determine a temperature."""


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """k bins of nearly equal size, from low to high probability."""

    probability: Floats
    """[k], mean probability in the bin."""
    frequency: Floats
    """[k], how often it happened."""
    count: NDArray[np.int64]
    """[k], number of answers."""

    @property
    def error(self) -> float:
        """Expected calibration error: mean of |frequency - probability|, weighted by the counts; 0 to 1."""
        gaps = np.abs(self.frequency - self.probability)
        return float(np.average(gaps, weights=self.count))


def reliability(probability: Floats, happened: Bools, bins: int = BINS) -> Reliability:
    """Equal-mass bins of m ≥ 1 probabilities (Nixon et al. 2019); equal probabilities stay together."""
    below = np.searchsorted(np.sort(probability), probability)
    _, bin_of = np.unique(below * bins // len(probability), return_inverse=True)
    count = np.bincount(bin_of)
    return Reliability(
        probability=np.bincount(bin_of, probability) / count,
        frequency=np.bincount(bin_of, happened.astype(np.float64)) / count,
        count=count,
    )


def stated(probabilities: Floats, labels: LabelArray, task: Task) -> tuple[Floats, Bools]:
    """([m] probability that was stated, [m] whether it came true).

    Multiclass: the probability of the answer, the most probable class (m = n). Multilabel: that of every known
    label.
    """
    if task == "multiclass":
        answer = probabilities.argmax(axis=1)
        return probabilities[np.arange(len(answer)), answer], answer == labels[:, 0]
    known = labels != UNKNOWN
    return probabilities[known], labels[known] == 1


def losses(probabilities: Floats, labels: LabelArray, task: Task) -> tuple[Floats, Floats, Floats]:
    """Per sample, each [n]: log loss (nats), Brier loss, and the number of known labels they are sums over.

    Multiclass: -log p of the true class, and Σ over classes of (p - y)², 0 to 2 (Brier 1950); one label each.
    Multilabel: the sums over known labels of the binary log loss and of (p - y)².
    """
    if task == "multiclass":
        # A float32 softmax sums to 1 only within 1e-7.
        share = probabilities / probabilities.sum(axis=1, keepdims=True)
        true = np.eye(share.shape[1])[labels[:, 0]]
        log_loss = -np.log(np.maximum((share * true).sum(axis=1), np.finfo(np.float64).eps))
        return log_loss, ((probabilities - true) ** 2).sum(axis=1), np.ones(len(labels))
    known = (labels != UNKNOWN).astype(np.float64)
    p = np.clip(probabilities, *_inner())
    surprise = -np.log(np.where(labels == 1, p, 1 - p))
    squares = (probabilities - (labels == 1)) ** 2
    return (surprise * known).sum(axis=1), (squares * known).sum(axis=1), known.sum(axis=1)


def scores(probabilities: Floats, labels: LabelArray, task: Task) -> dict[str, float | None]:
    """log_loss, brier and ece of one set of probabilities; None where no label is known."""
    log_loss, brier, weight = losses(probabilities, labels, task)
    if weight.sum() == 0:
        return {"log_loss": None, "brier": None, "ece": None}
    return {
        "log_loss": float(log_loss.sum() / weight.sum()),
        "brier": float(brier.sum() / weight.sum()),
        "ece": reliability(*stated(probabilities, labels, task)).error,
    }


def tempered(probabilities: Floats, temperature: float, task: Task) -> Floats:
    """The probabilities that the logits divided by `temperature` give; answers and ROC AUC of a label stay."""
    if task == "multiclass":
        logits = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
        return np.asarray(np.exp(log_softmax(logits / temperature, axis=1)))
    return np.asarray(expit(logit(np.clip(probabilities, *_inner())) / temperature))


def fit_temperature(probabilities: Floats, labels: LabelArray, task: Task) -> float:
    """The temperature with the least log loss (Guo et al., ICML 2017); raises NoTemperature where there is none.

    The log loss is convex in 1 / temperature, so that a bounded search in one dimension finds its minimum.
    """
    from scipy.optimize import minimize_scalar  # slow to import, and a model that is only used fits nothing

    probability, happened = stated(probabilities, labels, task)
    if len(happened) == 0:
        raise NoTemperature("no known label in validation")
    if (happened == (probability >= 0.5)).all() if task == "multilabel" else happened.all():
        raise NoTemperature("no mistake in validation: the lower the temperature, the better")

    def loss(log_temperature: float) -> float:
        log_loss, _, _ = losses(tempered(probabilities, np.exp(log_temperature), task), labels, task)
        return float(log_loss.sum())

    found = minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def calibrate(
    validation: tuple[Floats, LabelArray], test: tuple[Floats, LabelArray], task: Task
) -> dict[str, Any]:
    """Fit on validation's (probabilities, labels) and judge on test's, before and after.

    Without a temperature, it and `after` are None and `reason` says why.
    """
    found: dict[str, Any] = {"temperature": None, "before": scores(*test, task), "after": None}
    try:
        temperature = fit_temperature(*validation, task)
    except NoTemperature as error:
        return found | {"reason": str(error)}
    after = scores(tempered(test[0], temperature, task), test[1], task)
    return found | {"temperature": temperature, "after": after}


def _inner() -> tuple[float, float]:
    return _SMALLEST, 1 - _SMALLEST
