"""Calibration of probabilities: reliability bins, expected calibration error, Brier score, and the calibrator.

A calibrator is fitted on one split (validation) and applied to another. All computations are in float64.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_softmax, logit

from cxr_dist.config.range import Range, check_ranges
from cxr_dist.errors import require
from cxr_dist.evaluate.arrays import Bools, Floats
from cxr_dist.evaluate.calibration_line import calibration_line
from cxr_dist.format.manifest import UNKNOWN, Task

LabelArray = NDArray[np.int16]
BINS = 10
_CLIP = (1e-15, 1 - 1e-15)  # so that logits are finite


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """k bins with nearly equal numbers of predictions, from low to high probability."""

    probability: Floats
    """[k], mean predicted probability in the bin."""
    frequency: Floats
    """[k], observed frequency in the bin."""
    count: NDArray[np.int64]
    """[k], number of predictions in the bin."""

    @property
    def error(self) -> float:
        """Expected calibration error: mean of |frequency - probability|, weighted by the counts; 0 to 1."""
        gaps = np.abs(self.frequency - self.probability)
        return float(np.average(gaps, weights=self.count))


def reliability(probability: Floats, happened: Bools, bins: int = BINS) -> Reliability:
    """Equal-mass bins of m ≥ 1 probabilities (Nixon et al. 2019); equal probabilities share a bin."""
    below = np.searchsorted(np.sort(probability), probability)
    _, bin_of = np.unique(below * bins // len(probability), return_inverse=True)
    count = np.bincount(bin_of)
    return Reliability(
        probability=np.bincount(bin_of, probability) / count,
        frequency=np.bincount(bin_of, happened.astype(np.float64)) / count,
        count=count,
    )


def stated(probabilities: Floats, labels: LabelArray, task: Task) -> tuple[Floats, Bools]:
    """(probability [m], whether the predicted event occurred [m]).

    Multiclass: the event is that the most probable class is right (m = n). Multilabel: that a label is positive, for
    each of m known labels.
    """
    if task == "multiclass":
        answer = probabilities.argmax(axis=1)
        return probabilities[np.arange(len(answer)), answer], answer == labels[:, 0]
    known = labels != UNKNOWN
    return probabilities[known], labels[known] == 1


def losses(probabilities: Floats, labels: LabelArray, task: Task) -> tuple[Floats, Floats, Floats]:
    """For each sample, each [n]: log loss (nats), Brier loss, and the number of known labels that they sum over.

    Multiclass: -log p of the true class, and Σ over classes of (p - y)², 0 to 2 (Brier 1950); one label per sample.
    Multilabel: the sums over known labels of the binary log loss and of (p - y)².
    """
    if task == "multiclass":
        # A float32 softmax sums to 1 only within 1e-7.
        share = probabilities / probabilities.sum(axis=1, keepdims=True)
        true = np.eye(share.shape[1])[labels[:, 0]]
        log_loss = -np.log(np.maximum((share * true).sum(axis=1), np.finfo(np.float64).eps))
        return log_loss, ((probabilities - true) ** 2).sum(axis=1), np.ones(len(labels))
    known = (labels != UNKNOWN).astype(np.float64)
    p = np.clip(probabilities, *_CLIP)
    log_loss = -np.log(np.where(labels == 1, p, 1 - p))
    squares = (probabilities - (labels == 1)) ** 2
    return (log_loss * known).sum(axis=1), (squares * known).sum(axis=1), known.sum(axis=1)


def scores(probabilities: Floats, labels: LabelArray, task: Task) -> dict[str, float | None]:
    """log_loss, brier, ece, and intercept and slope of the calibration line; None where undefined.

    The line pools all classes against the rest. For multiclass, predicted and true shares then agree on average by
    construction, and the line of a single class says more.
    """
    log_loss, brier, weight = losses(probabilities, labels, task)
    if weight.sum() == 0:
        return dict.fromkeys(("log_loss", "brier", "ece", "intercept", "slope"))
    known = np.ones(probabilities.shape, dtype=np.bool_) if task == "multiclass" else labels != UNKNOWN
    positive = np.arange(probabilities.shape[1]) == labels if task == "multiclass" else labels == 1
    return {
        "log_loss": float(log_loss.sum() / weight.sum()),
        "brier": float(brier.sum() / weight.sum()),
        "ece": reliability(*stated(probabilities, labels, task)).error,
        **calibration_line(probabilities[known], positive[known]),
    }


@dataclass(frozen=True, kw_only=True)
class Calibrator:
    """Calibrates probabilities: logit / temperature - prior_shift + bias, for each class.

    The temperature makes the model's confidence match its accuracy on the distribution that it was trained on (Guo et
    al., ICML 2017). The prior shift takes from that distribution to the real one (Saerens et al., Neural Computation
    2002), and the bias corrects what remains (Platt 1999). Each is a tuple with one value per class, in order.
    """

    prior_shift: Annotated[tuple[float, ...], Range()]
    """By how much class weights and weighted sampling raised the log-odds of a class (multilabel) or the logarithm of
    its probability, up to a constant (multiclass)."""
    temperature: Annotated[float, Range(above=0)] = 1.0
    bias: Annotated[tuple[float, ...], Range()]

    def __post_init__(self) -> None:
        check_ranges(self, "calibrator")
        widths = len(self.prior_shift), len(self.bias)
        require(widths[0] == widths[1], f"prior_shift has {widths[0]} values, but bias has {widths[1]}")

    @classmethod
    def of(cls, num_classes: int, temperature: float = 1.0, prior_shift: tuple[float, ...] | None = None) -> Self:
        """A calibrator without a bias; by default it changes nothing."""
        none = (0.0,) * num_classes
        return cls(prior_shift=prior_shift or none, temperature=temperature, bias=none)

    @classmethod
    def recorded(cls, calibration: Mapping[str, Any] | None, classes: tuple[str, ...]) -> Self | None:
        """The calibrator in the block `calibration` of a metrics.json; None if there is none."""
        if calibration is None:
            return None
        temperature = calibration["temperature"]
        if "prior_shift" not in calibration:  # an earlier version, which fitted only a temperature
            return None if temperature is None else cls.of(len(classes), float(temperature))
        shift, bias = ([float(calibration[name][c]) for c in classes] for name in ("prior_shift", "bias"))
        return cls(prior_shift=tuple(shift), temperature=float(temperature or 1.0), bias=tuple(bias))

    @property
    def method(self) -> str:
        """What it changes, in words, such as "prior shift, temperature and bias"; "none" if nothing."""
        parts = {
            "prior shift": any(self.prior_shift),
            "temperature": self.temperature != 1,
            "bias": any(self.bias),
        }
        return in_words([name for name, used in parts.items() if used])

    def apply(self, probabilities: Floats, task: Task) -> Floats:
        """Calibrated probabilities of the same shape [..., C]; unchanged, to the last bit, if the method is "none"."""
        if self.method == "none":
            return probabilities
        shift = np.asarray(self.bias) - np.asarray(self.prior_shift)
        logits = logits_of(probabilities, task) / self.temperature + shift
        return np.asarray(np.exp(log_softmax(logits, axis=-1)) if task == "multiclass" else expit(logits))


def in_words(names: list[str]) -> str:
    """The names of a calibrator's steps as a phrase; "none" if there are none."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]])) or "none"


def logits_of(probabilities: Floats, task: Task) -> Floats:
    """Finite logits [..., C] of probabilities: their logarithm (multiclass) or log-odds (multilabel)."""
    if task == "multiclass":
        return np.asarray(np.log(np.maximum(probabilities, np.finfo(np.float64).tiny)))
    return np.asarray(logit(np.clip(probabilities, *_CLIP)))
