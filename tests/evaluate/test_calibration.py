"""Calibration agrees with scikit-learn and torch, and recognises samples that are calibrated by construction."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_runs import make_predictions
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from cxr_dist.evaluate.calibration import calibrate, fit_temperature, reliability, scores, stated, tempered
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
    assert scores(*arrays_of(predictions), "multilabel") == {"log_loss": None, "brier": None, "ece": None}


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_temperature_divides_the_logits(task: str) -> None:
    logits = torch.randn(20, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 8
    squash = torch.sigmoid if task == "multilabel" else lambda x: torch.softmax(x, -1)
    result = tempered(squash(logits).numpy(), 1.7, task)
    np.testing.assert_allclose(result, squash(logits / 1.7), atol=1e-9)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_fit_recovers_a_known_temperature_and_agrees_with_lbfgs(task: str) -> None:
    predictions = make_predictions(task=task, n=400, passes=0)
    fitted = fit_temperature(*arrays_of(predictions), task)
    again = fit_temperature(tempered(predictions.probabilities, 0.4, task), predictions.labels, task)
    assert again == pytest.approx(fitted / 0.4, rel=1e-4)
    assert fitted == pytest.approx(_by_lbfgs(predictions), rel=1e-3)


def _by_lbfgs(predictions: Predictions) -> float:
    logits, labels = torch.tensor(predictions.probabilities).logit(), torch.tensor(predictions.labels)
    if predictions.task == "multiclass":
        logits = torch.tensor(predictions.probabilities).log()
    log_t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_t], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        scaled = logits / log_t.exp()
        if predictions.task == "multiclass":
            loss = torch.nn.functional.cross_entropy(scaled, labels[:, 0].long())
        else:
            known = labels >= 0
            loss = torch.nn.functional.binary_cross_entropy_with_logits(scaled[known], labels[known].double())
        loss.backward()
        return loss

    optimizer.step(closure)
    return float(log_t.detach().exp())


def test_temperature_improves_overconfident_predictions_on_other_samples() -> None:
    validation, test = (make_predictions(n=1000, passes=0, data=data) for data in (1, 2))
    sharp = [
        (tempered(predictions.probabilities, 0.3, "multiclass"), predictions.labels)
        for predictions in (validation, test)
    ]
    result = calibrate(*sharp, "multiclass")
    assert result["temperature"] > 1.5
    for name in ("log_loss", "brier", "ece"):
        assert result["after"][name] < result["before"][name]


def test_the_reason_is_given_if_no_temperature_can_be_fitted() -> None:
    predictions = make_predictions(n=40, skill=20, passes=0)
    result = calibrate(arrays_of(predictions), arrays_of(make_predictions(n=40, passes=0)), "multiclass")
    assert result["temperature"] is result["after"] is None
    assert result["before"]["brier"] > 0
    assert result["reason"] == "no mistake in validation: the lower the temperature, the better"
    unknown = make_predictions(task="multilabel", n=4, passes=0)
    unknown.labels[:] = -1
    result = calibrate(arrays_of(unknown), arrays_of(unknown), "multilabel")
    assert result["reason"] == "no known label in validation"
