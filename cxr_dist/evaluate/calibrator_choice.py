"""Fits calibrators on validation and chooses the one with the lowest cross-validated log loss.

Candidates, from simple to complex: no calibration; the known prior shift of class weights and weighted sampling (Elkan
2001; Saerens et al. 2002); a temperature (Guo et al. 2017); the prior shift and a temperature; the prior shift, a
temperature and a bias for each class (Platt 1999, with one slope for all classes). The bias has a Gaussian prior with
a standard deviation of 1 nat around the known shift, so that a class with few positives stays near it.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from scipy.special import expit, log_expit, log_softmax

from cxr_dist.distributed.reduce import from_main
from cxr_dist.evaluate.arrays import Bools, Floats
from cxr_dist.evaluate.calibration import Calibrator, LabelArray, in_words, logits_of, losses, scores, stated
from cxr_dist.evaluate.predictions import Predictions
from cxr_dist.format.manifest import UNKNOWN, Task

FOLDS = 5
LEAST_FOR_BIAS = 5
"""A class needs as many positives and as many negatives in validation to have a bias of its own."""
TEMPERATURES = (0.05, 20.0)
"""Bounds of a fitted temperature."""
_BIAS_DEVIATION = 1.0  # nats
_TIE = 1e-9  # nats; smaller differences between log losses are rounding

ValidationSource = Literal["own validation", "validation of the evaluated shards"]


class NoTemperature(Exception):
    """The validation split does not determine a temperature."""


@dataclass(frozen=True, kw_only=True)
class CalibratorChoice:
    """The calibrator that was chosen on a validation split, and why."""

    calibrator: Calibrator
    candidates: dict[str, float] = field(default_factory=dict)
    """Method -> log loss on validation, cross-validated over patients; empty if no label is known."""
    reason: str = ""
    """Why no temperature was fitted; empty if one was."""
    n: int
    patients: int
    source: ValidationSource = "own validation"

    @property
    def chosen_on(self) -> dict[str, Any]:
        """The split that calibrator and thresholds were chosen on."""
        return {"split": "val", "n": self.n, "patients": self.patients, "source": self.source}

    def judged_on(self, predictions: Predictions) -> dict[str, Any]:
        """The block `calibration` of metrics.json: the choice, and its effect on the raw probabilities of a split."""
        c, labels, task = self.calibrator, predictions.labels, predictions.task
        unchanged = c.method == "none"
        by_class = {"prior_shift": c.prior_shift, "bias": c.bias}
        return {
            "chosen_on": self.chosen_on,
            "method": c.method,
            "temperature": None if self.reason else c.temperature,
            **{k: dict(zip(predictions.classes, values, strict=True)) for k, values in by_class.items()},
            "candidates": self.candidates,
            "before": scores(predictions.raw, labels, task),
            "after": None if unchanged else scores(c.apply(predictions.raw, task), labels, task),
        } | ({"reason": self.reason} if self.reason else {})


def choose_calibrator(
    validation: Predictions, prior_shift: Sequence[float] | None = None, source: ValidationSource = "own validation"
) -> CalibratorChoice:
    """Choose among the candidates by cross-validation over patients, and fit the chosen one on all of `validation`.

    Args:
        validation: Predictions on the validation split, of which the raw probabilities are used.
        prior_shift: The known shift of each class (`Calibrator.prior_shift`); None if there is none.
        source: Whose validation split it is.

    If validation does not determine a temperature, only the candidates that need no fit remain, and `reason` says why.
    """
    classes = len(validation.classes)
    fitting = _Fitting.of(validation, tuple(prior_shift or (0.0,) * classes))
    folds = folds_of(validation.patients)
    losses, reason = {}, ""
    for candidate in fitting.candidates():
        try:
            losses[candidate] = _cross_validated(fitting, candidate, folds)
        except NoTemperature as error:
            reason = str(error)
    known = {candidate: loss for candidate, loss in losses.items() if np.isfinite(loss)}
    # Without any known label the shift is still known.
    chosen = next((c for c in known if known[c] <= min(known.values()) + _TIE), fitting.candidates()[-1].without_fit)
    if not chosen.temperature and not reason:
        reason = "the temperature that was fitted does not lower the cross-validated log loss"
    return CalibratorChoice(
        calibrator=fitting.fit(chosen, np.ones(len(validation), np.bool_)),
        candidates={candidate.name: loss for candidate, loss in known.items()},
        reason=reason if not chosen.temperature else "",
        n=len(validation),
        patients=len(set(validation.patients)),
        source=source,
    )


def calibrator_from_main(calibrator: Calibrator | None, num_classes: int, device: torch.device) -> Calibrator | None:
    """Rank 0's calibrator of `num_classes` classes, or None if it has none (all ranks)."""
    values = torch.zeros(2 + 2 * num_classes, dtype=torch.float64, device=device)
    if calibrator is not None:
        exact = [1.0, calibrator.temperature, *calibrator.prior_shift, *calibrator.bias]
        values = torch.tensor(exact, dtype=torch.float64, device=device)
    there, temperature, *of_classes = from_main(values).tolist()
    if not there:
        return None
    shift, bias = tuple(of_classes[:num_classes]), tuple(of_classes[num_classes:])
    return Calibrator(prior_shift=shift, temperature=temperature, bias=bias)


def folds_of(patients: Sequence[str]) -> np.ndarray:
    """The fold of each patient's samples, [n] in 0 to FOLDS - 1, from a hash of the patient alone."""
    digests = {p: hashlib.sha256(f"calibration fold of {p}".encode()).digest() for p in set(patients)}
    return np.array([int.from_bytes(digests[p][:8], "big") % FOLDS for p in patients])


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    shift: bool = False
    temperature: bool = False
    bias: bool = False

    @property
    def name(self) -> str:
        parts = {"prior shift": self.shift, "temperature": self.temperature, "bias": self.bias}
        return in_words([name for name, used in parts.items() if used])

    @property
    def without_fit(self) -> "_Candidate":
        return _Candidate(shift=self.shift)


@dataclass(frozen=True, kw_only=True)
class _Fitting:
    """Fits candidates on rows of one validation split."""

    probabilities: Floats
    """[n, C], not calibrated."""
    logits: Floats
    labels: LabelArray
    task: Task
    shift: tuple[float, ...]

    @classmethod
    def of(cls, validation: Predictions, shift: tuple[float, ...]) -> "_Fitting":
        raw, task = validation.raw, validation.task
        return cls(probabilities=raw, logits=logits_of(raw, task), labels=validation.labels, task=task, shift=shift)

    def candidates(self) -> list[_Candidate]:
        """From simple to complex."""
        shifted = any(self.shift)
        plain = [_Candidate(), _Candidate(temperature=True)]
        if not shifted:
            return [*plain, _Candidate(temperature=True, bias=True)]
        return [
            plain[0],
            _Candidate(shift=True),
            plain[1],
            _Candidate(shift=True, temperature=True),
            _Candidate(shift=True, temperature=True, bias=True),
        ]

    def fit(self, candidate: _Candidate, rows: Bools) -> Calibrator:
        """The calibrator of a candidate, fitted on `rows`, a mask [n]; raises NoTemperature."""
        shift = self.shift if candidate.shift else (0.0,) * len(self.shift)
        if not candidate.temperature:
            return Calibrator.of(len(shift), prior_shift=shift)
        labels, logits = self.labels[rows], self.logits[rows]
        check_determined(self.probabilities[rows], labels, self.task)
        free = enough_for_bias(labels, self.task, len(shift)) & candidate.bias
        inverse, bias = _minimum(logits, labels, self.task, np.array(shift), free)
        return Calibrator(prior_shift=shift, temperature=1 / inverse, bias=tuple(bias.tolist()))


def _cross_validated(fitting: _Fitting, candidate: _Candidate, folds: np.ndarray) -> float:
    """Mean log loss in nats of each fold under the calibrator of the other folds; NaN if no label is known."""
    present = np.unique(folds)
    if candidate.temperature and len(present) < 2:
        raise NoTemperature("validation has too few patients to cross-validate a temperature")
    total = weight = 0.0
    for fold in present:
        inside = folds == fold
        calibrated = fitting.fit(candidate, ~inside).apply(fitting.probabilities[inside], fitting.task)
        loss, _, known = losses(calibrated, fitting.labels[inside], fitting.task)
        total, weight = total + float(loss.sum()), weight + float(known.sum())
    return total / weight if weight else float("nan")


def check_determined(probabilities: Floats, labels: LabelArray, task: Task) -> None:
    """Raise NoTemperature if no finite temperature above 0 has the lowest log loss."""
    probability, happened = stated(probabilities, labels, task)
    if len(happened) == 0:
        raise NoTemperature("no known label in validation")
    if (happened == (probability >= 0.5)).all() if task == "multilabel" else happened.all():
        raise NoTemperature("no mistake in validation: the lower the temperature, the better")


def enough_for_bias(labels: LabelArray, task: Task, num_classes: int) -> Bools:
    """[C], the classes with at least LEAST_FOR_BIAS positive and as many negative labels."""
    if task == "multiclass":
        positives = np.bincount(labels[:, 0], minlength=num_classes)
        negatives = len(labels) - positives
    else:
        positives, negatives = ((labels == value).sum(axis=0) for value in (1, 0))
    return np.asarray((positives >= LEAST_FOR_BIAS) & (negatives >= LEAST_FOR_BIAS))


def fit_temperature(probabilities: Floats, labels: LabelArray, task: Task) -> float:
    """The temperature alone with the lowest log loss; raises NoTemperature if there is none."""
    check_determined(probabilities, labels, task)
    none = np.zeros(probabilities.shape[1])
    return 1 / _minimum(logits_of(probabilities, task), labels, task, none, none > 0)[0]


def _minimum(logits: Floats, labels: LabelArray, task: Task, shift: Floats, free: Bools) -> tuple[float, Floats]:
    """The inverse temperature and the bias [C] with the lowest penalised log loss; the bias is 0 where not `free`.

    The loss is convex in both together, so that there is a single minimum.
    """
    from scipy.optimize import minimize  # imported here because it is slow, and inference fits nothing

    if task == "multiclass":
        positive, known = np.eye(logits.shape[1])[labels[:, 0]], np.ones(logits.shape)
        weight = len(labels)
    else:
        positive, known = (labels == 1).astype(np.float64), (labels != UNKNOWN).astype(np.float64)
        weight = int(known.sum())

    def loss_and_gradient(x: Floats) -> tuple[float, Floats]:
        bias = np.zeros(len(shift))
        bias[free] = x[1:]
        scaled = x[0] * logits - shift + bias
        if task == "multiclass":
            log_p = log_softmax(scaled, axis=1)
            loss, p = -(positive * log_p).sum(), np.exp(log_p)
        else:
            loss = -(known * (positive * log_expit(scaled) + (1 - positive) * log_expit(-scaled))).sum()
            p = expit(scaled)
        residual = known * (p - positive)
        penalty = bias / _BIAS_DEVIATION**2
        gradient = np.concatenate([[(residual * logits).sum()], (residual.sum(axis=0) + penalty)[free]])
        return float(loss + bias @ penalty / 2) / weight, gradient / weight

    bounds = [(1 / TEMPERATURES[1], 1 / TEMPERATURES[0]), *[(None, None)] * int(free.sum())]
    start = np.concatenate([[1.0], np.zeros(int(free.sum()))])
    options = {"ftol": 1e-15, "gtol": 1e-9, "maxiter": 1000}
    found = minimize(loss_and_gradient, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    bias = np.zeros(len(shift))
    bias[free] = found.x[1:]
    return float(found.x[0]), bias
