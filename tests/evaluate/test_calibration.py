"""Calibration agrees with scikit-learn and torch, and recognises samples that are calibrated by construction."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_runs import make_predictions
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from cxr_dist.errors import UserError
from cxr_dist.evaluate.calibration import Calibrator, reliability, scores, stated
from cxr_dist.evaluate.predictions import Predictions


def arrays_of(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    return predictions.probabilities, predictions.labels


@given(st.integers(1, 20), st.integers(0, 1000))
def test_bins_equal_scikit_learns_quantile_bins(tens: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    probability, happened = random.permutation(10 * tens) / (10 * tens), random.random(10 * tens) < 0.5
    result = reliability(probability, happened)
    frequency, mean = calibration_curve(happened, probability, n_bins=10, strategy="quantile")
    np.testing.assert_allclose(result.frequency, frequency, atol=1e-12)
    np.testing.assert_allclose(result.probability, mean, atol=1e-12)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=60))
def test_equal_probabilities_share_a_bin_and_order_does_not_matter(rows: list[tuple[int, bool]]) -> None:
    probability, happened = (np.array(column) for column in zip(*rows, strict=True))
    result, reverse = (
        reliability(probability / 5, happened),
        reliability(probability[::-1] / 5, happened[::-1]),
    )
    assert result.error == pytest.approx(reverse.error, abs=1e-12)
    assert result.count.sum() == len(rows)
    assert len(result.count) <= min(10, len(set(probability.tolist())))
    assert (np.diff(result.probability) > 0).all()


def test_calibration_error_by_hand() -> None:
    """Two bins: 0.2 predicted and 1 of 2 occurred; 0.9 predicted and 2 of 2 occurred: (0.3 + 0.1) / 2."""
    result = reliability(np.array([0.9, 0.2, 0.9, 0.2]), np.array([True, False, True, True]), bins=2)
    assert result.error == pytest.approx(0.2)


def test_error_is_small_if_calibrated_and_large_if_overconfident() -> None:
    random = np.random.default_rng(0)
    probability = random.random(20_000)
    happened = random.random(20_000) < probability
    assert reliability(probability, happened).error < 0.015
    assert reliability(np.where(probability > 0.5, 0.99, 0.01), happened).error > 0.2


def test_scores_equal_scikit_learn() -> None:
    predictions = make_predictions(passes=0)
    result, truth = scores(*arrays_of(predictions), "multiclass"), predictions.labels[:, 0]
    assert result["log_loss"] == pytest.approx(sk.log_loss(truth, predictions.probabilities), abs=1e-12)
    squares = [sk.brier_score_loss(truth == c, predictions.probabilities[:, c]) for c in range(5)]
    assert result["brier"] == pytest.approx(np.sum(squares), abs=1e-12)
    confidence, right = stated(*arrays_of(predictions), "multiclass")
    assert right.mean() == sk.accuracy_score(truth, predictions.predicted)
    assert confidence.tolist() == predictions.probabilities.max(axis=1).tolist()


def test_multilabel_scores_pool_the_known_labels() -> None:
    predictions = make_predictions(task="multilabel", passes=0)
    known = predictions.labels >= 0
    truth, p = predictions.labels[known], predictions.probabilities[known]
    result = scores(*arrays_of(predictions), "multilabel")
    assert result["log_loss"] == pytest.approx(sk.log_loss(truth, p), abs=1e-12)
    assert result["brier"] == pytest.approx(sk.brier_score_loss(truth, p), abs=1e-12)
    predictions.labels[:] = -1
    assert scores(*arrays_of(predictions), "multilabel") == dict.fromkeys(
        ("log_loss", "brier", "ece", "intercept", "slope")
    )


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_a_calibrator_divides_the_logits_subtracts_the_shift_and_adds_the_bias(task: str) -> None:
    logits = torch.randn(20, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 8
    squash = torch.sigmoid if task == "multilabel" else lambda x: torch.softmax(x, -1)
    shift, bias = (0.5, -2.0, 0.0, 1.0), (0.1, 0.2, -0.3, 0.0)
    calibrator = Calibrator(prior_shift=shift, temperature=1.7, bias=bias)
    expected = squash(logits / 1.7 - torch.tensor(shift) + torch.tensor(bias))
    np.testing.assert_allclose(calibrator.apply(squash(logits).numpy(), task), expected, atol=1e-9)
    passes = calibrator.apply(squash(logits).numpy().reshape(2, 10, 4), task)  # also with passes as the first axis
    np.testing.assert_array_equal(passes.reshape(20, 4), calibrator.apply(squash(logits).numpy(), task))


def test_the_method_names_what_a_calibrator_changes() -> None:
    assert Calibrator.of(2).method == "none"
    assert Calibrator.of(2, prior_shift=(0.0, 1.0)).method == "prior shift"
    assert Calibrator.of(2, 2.0, (0.0, 1.0)).method == "prior shift and temperature"
    assert Calibrator(prior_shift=(0, 1), temperature=2, bias=(1, 0)).method == "prior shift, temperature and bias"
    probabilities = np.array([[1e-300, 1.0]])
    assert Calibrator.of(2).apply(probabilities, "multilabel") is probabilities


def test_the_temperature_of_an_earlier_version_is_a_calibrator_of_temperature_alone() -> None:
    assert Calibrator.recorded({"temperature": 1.5}, ("a", "b")) == Calibrator.of(2, 1.5)
    assert Calibrator.recorded({"temperature": None, "reason": "no known label"}, ("a", "b")) is None
    assert Calibrator.recorded(None, ("a", "b")) is None
    block = {"temperature": None, "prior_shift": {"b": 1.0, "a": 0.5}, "bias": {"a": 0.0, "b": 0.0}}
    assert Calibrator.recorded(block, ("a", "b")) == Calibrator.of(2, prior_shift=(0.5, 1.0))


@pytest.mark.parametrize(
    ("temperature", "bias", "message"),
    [
        (0.0, (0.0,), r"calibrator\.temperature is 0\.0; expected above 0"),
        (1.0, (), "prior_shift has 1 values, but bias"),
    ],
)
def test_an_impossible_calibrator_is_refused(temperature: float, bias: tuple[float, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Calibrator(prior_shift=(0.0,), temperature=temperature, bias=bias)
