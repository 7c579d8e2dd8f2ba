"""Calibrators are fitted as independent references fit them, and chosen by cross-validation over patients."""

import dataclasses

import numpy as np
import pytest
import torch
from made_runs import CLASSES, make_predictions
from sklearn.linear_model import LogisticRegression

from cxr_dist.evaluate.calibration import Calibrator, scores
from cxr_dist.evaluate.calibrator_choice import (
    FOLDS,
    calibrator_from_main,
    choose_calibrator,
    fit_temperature,
    folds_of,
)
from cxr_dist.evaluate.predictions import Predictions

TASKS = pytest.mark.parametrize("task", ["multiclass", "multilabel"])


def distorted(predictions: Predictions, calibrator: Calibrator) -> Predictions:
    """The predictions of a model that `calibrator` would calibrate."""
    t, shift = calibrator.temperature, np.array(calibrator.prior_shift) - np.array(calibrator.bias)
    inverse = Calibrator(prior_shift=(0.0,) * len(shift), temperature=1 / t, bias=tuple(shift * t))
    return dataclasses.replace(predictions, probabilities=inverse.apply(predictions.probabilities, predictions.task))


@TASKS
def test_fit_recovers_a_known_temperature_and_agrees_with_lbfgs(task: str) -> None:
    predictions = make_predictions(task=task, n=400, passes=0)
    fitted = fit_temperature(predictions.probabilities, predictions.labels, task)
    sharp = distorted(predictions, Calibrator.of(5, 2.5))
    assert fit_temperature(sharp.probabilities, sharp.labels, task) == pytest.approx(fitted * 2.5, rel=1e-6)
    logits, labels = torch.tensor(predictions.probabilities).logit(), torch.tensor(predictions.labels)
    if task == "multiclass":
        logits = torch.tensor(predictions.probabilities).log()
    assert fitted == pytest.approx(float(_by_torch(logits, labels, task, np.zeros(5), False)[0]), rel=1e-3)


@TASKS
@pytest.mark.parametrize("wanted", [0.06, 0.09])
def test_a_temperature_just_above_the_lower_bound_is_fitted_exactly(task: str, wanted: float) -> None:
    predictions = make_predictions(task=task, n=400, passes=0)
    fitted = fit_temperature(predictions.probabilities, predictions.labels, task)
    other = distorted(predictions, Calibrator.of(5, wanted / fitted))
    assert fit_temperature(other.probabilities, other.labels, task) == pytest.approx(wanted, rel=1e-3)


@TASKS
@pytest.mark.parametrize(("wanted", "bound"), [(0.01, 0.05), (100.0, 20.0)])
def test_a_temperature_outside_the_bounds_is_the_bound(task: str, wanted: float, bound: float) -> None:
    predictions = make_predictions(task=task, n=400, passes=0)
    fitted = fit_temperature(predictions.probabilities, predictions.labels, task)
    other = distorted(predictions, Calibrator.of(5, wanted / fitted))
    assert fit_temperature(other.probabilities, other.labels, task) == pytest.approx(bound)


@TASKS
def test_shift_temperature_and_bias_agree_with_torch_and_undo_a_distortion(task: str) -> None:
    """The last class has another shift than is known, which only a bias can correct."""
    predictions = make_predictions(task=task, n=1500, passes=0)
    shift = (0.0, 1.5, -1.0, 2.0, 1.0)
    true = Calibrator(prior_shift=shift, temperature=2.0, bias=(0.0, 0.0, 0.0, 0.0, 1.2))
    choice = choose_calibrator(distorted(predictions, true), shift)
    assert choice.calibrator.method == "prior shift, temperature and bias"
    assert list(choice.candidates) == [
        "none",
        "prior shift",
        "temperature",
        "prior shift and temperature",
        "prior shift, temperature and bias",
    ]
    assert min(choice.candidates, key=choice.candidates.__getitem__) == choice.calibrator.method
    raw = torch.tensor(distorted(predictions, true).probabilities)
    logits = raw.log() if task == "multiclass" else raw.logit()
    temperature, bias = _by_torch(logits, torch.tensor(predictions.labels), task, np.array(shift), True)
    assert choice.calibrator.temperature == pytest.approx(temperature, rel=1e-3)
    np.testing.assert_allclose(choice.calibrator.bias, bias, atol=2e-3)


def _by_torch(
    logits: torch.Tensor, labels: torch.Tensor, task: str, shift: np.ndarray, with_bias: bool
) -> tuple[float, np.ndarray]:
    """Temperature and bias by torch's losses and its L-BFGS."""
    log_t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(logits.shape[1], dtype=torch.float64, requires_grad=with_bias)
    parameters = [log_t, bias] if with_bias else [log_t]
    optimizer = torch.optim.LBFGS(parameters, max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        scaled = logits / log_t.exp() - torch.tensor(shift) + bias
        if task == "multiclass":
            loss = torch.nn.functional.cross_entropy(scaled, labels[:, 0].long(), reduction="sum")
        else:
            known, to = labels >= 0, torch.nn.functional.binary_cross_entropy_with_logits
            loss = to(scaled[known], labels[known].double(), reduction="sum")
        loss = loss + bias.square().sum() / 2  # a Gaussian prior of standard deviation 1
        loss.backward()
        return loss

    optimizer.step(closure)
    return float(log_t.detach().exp()), bias.detach().numpy()


def test_the_bias_of_one_label_is_platt_scaling() -> None:
    """scikit-learn's logistic regression of the label on the logit, with only the intercept penalised by a prior."""
    predictions = make_predictions(task="multilabel", n=3000, classes=("a",), passes=0)
    choice = choose_calibrator(distorted(predictions, Calibrator(prior_shift=(0.0,), temperature=2.0, bias=(1.0,))))
    assert choice.calibrator.method == "temperature and bias"
    known = predictions.labels[:, 0] >= 0
    raw = distorted(predictions, Calibrator(prior_shift=(0.0,), temperature=2.0, bias=(1.0,))).probabilities
    logit = np.log(raw / (1 - raw))[known]
    platt = LogisticRegression(C=np.inf, tol=1e-8).fit(logit, predictions.labels[known, 0])
    # The prior moves an intercept that 2,700 labels determine by little.
    assert 1 / choice.calibrator.temperature == pytest.approx(float(platt.coef_[0, 0]), rel=0.01)
    assert choice.calibrator.bias[0] == pytest.approx(float(platt.intercept_[0]), abs=0.02)


@TASKS
def test_calibrated_predictions_stay_nearly_as_they_are(task: str) -> None:
    predictions = make_predictions(task=task, n=600, passes=0)
    well = predictions.calibrated(choose_calibrator(predictions).calibrator)
    again = choose_calibrator(dataclasses.replace(well, uncalibrated=None))
    assert again.calibrator.temperature == pytest.approx(1, abs=0.1)
    assert max(map(abs, again.calibrator.bias)) < 0.2


@TASKS
def test_a_known_shift_is_undone_without_fitting_and_improves_other_samples(task: str) -> None:
    validation, test = (make_predictions(task=task, n=300, passes=0, data=data) for data in (1, 2))
    well = choose_calibrator(validation).calibrator
    shift = (3.0, 2.0, 1.0, 0.0, -1.0)
    validation, test = (
        distorted(dataclasses.replace(p.calibrated(well), uncalibrated=None), Calibrator.of(5, prior_shift=shift))
        for p in (validation, test)
    )
    choice = choose_calibrator(validation, shift)
    assert choice.candidates["prior shift"] < choice.candidates["temperature"] < choice.candidates["none"] + 1e-9
    block = choice.judged_on(test.calibrated(choice.calibrator))
    assert block["prior_shift"] == dict(zip(CLASSES, shift, strict=True))
    assert block["before"] == scores(test.probabilities, test.labels, task)
    for name in ("log_loss", "brier", "ece"):
        assert block["after"][name] < block["before"][name]
    assert Calibrator.recorded(block, CLASSES) == choice.calibrator


def test_a_single_process_has_its_own_calibrator() -> None:
    calibrator = Calibrator(prior_shift=(0.1, -0.2, 1 / 3), temperature=1.7, bias=(0.0, 0.25, -1e-3))
    assert calibrator_from_main(calibrator, 3, torch.device("cpu")) == calibrator
    assert calibrator_from_main(None, 3, torch.device("cpu")) is None


def test_folds_belong_to_patients_and_depend_on_nothing_else() -> None:
    patients = [f"p{i // 3}" for i in range(300)]
    folds = folds_of(patients)
    assert set(folds.tolist()) == set(range(FOLDS))
    assert [len(set(folds[i : i + 3].tolist())) for i in range(0, 300, 3)] == [1] * 100
    np.testing.assert_array_equal(folds_of(patients[::-1]), folds[::-1])
    np.testing.assert_array_equal(folds_of(patients[30:60]), folds[30:60])


def test_a_class_with_few_positives_or_negatives_has_no_bias_of_its_own() -> None:
    predictions = make_predictions(task="multilabel", n=600, passes=0)
    labels = predictions.labels.copy()
    rare = np.flatnonzero(labels[:, 1] == 1)
    labels[rare[4:], 1] = 0
    common = np.flatnonzero(labels[:, 2] == 0)
    labels[common[4:], 2] = 1
    bias = choose_calibrator(dataclasses.replace(predictions, labels=labels)).calibrator.bias
    assert [value != 0 for value in bias] == [True, False, False, True, True]


@pytest.mark.parametrize("shift", [None, (1.0, 0.0, 0.0, 0.0, 0.0)])
def test_without_a_mistake_no_temperature_is_fitted_and_the_reason_is_given(shift: tuple[float, ...] | None) -> None:
    choice = choose_calibrator(make_predictions(n=40, skill=20, passes=0), shift)
    assert list(choice.candidates) == (["none"] if shift is None else ["none", "prior shift"])
    block = choice.judged_on(make_predictions(n=40, passes=0))
    assert block["temperature"] is None
    assert block["reason"] == "no mistake in validation: the lower the temperature, the better"
    assert block["before"]["brier"] > 0
    assert (block["after"] is None) == (block["method"] == "none")


def test_without_a_known_label_only_the_known_shift_is_undone() -> None:
    unknown = make_predictions(task="multilabel", n=4, passes=0)
    unknown.labels[:] = -1
    for shift, method in ((None, "none"), ((1.0,) * 5, "prior shift")):
        choice = choose_calibrator(unknown, shift)
        assert (choice.calibrator.method, choice.reason) == (method, "no known label in validation")
        assert choice.candidates == {}


def test_one_patient_cannot_be_cross_validated() -> None:
    predictions = dataclasses.replace(make_predictions(passes=0), patients=["p"] * 150)
    assert choose_calibrator(predictions).reason == "validation has too few patients to cross-validate a temperature"


def test_the_simplest_of_equal_candidates_is_chosen() -> None:
    """Two labels on one probability: the frequency is the probability, so that no temperature improves on it."""
    labels = np.array([[1], [0]] * 50, np.int16)
    fair = dataclasses.replace(
        make_predictions(task="multilabel", n=100, classes=("a",), passes=0),
        labels=labels,
        probabilities=np.full((100, 1), 0.5),
        patients=[f"p{i}" for i in range(100)],
    )
    choice = choose_calibrator(fair)
    assert choice.calibrator.method == "none"
    assert choice.reason == "the temperature that was fitted does not lower the cross-validated log loss"
