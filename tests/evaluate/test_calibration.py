"""Calibration against scikit-learn and torch, and on samples that are calibrated by construction."""

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


def parts(made: Predictions) -> tuple[np.ndarray, np.ndarray]:
    return made.probabilities, made.labels


@given(st.integers(1, 20), st.integers(0, 1000))
def test_bins_are_scikit_learns_quantile_bins(tens: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    probability, happened = random.permutation(10 * tens) / (10 * tens), random.random(10 * tens) < 0.5
    found = reliability(probability, happened)
    frequency, mean = calibration_curve(happened, probability, n_bins=10, strategy="quantile")
    np.testing.assert_allclose(found.frequency, frequency, atol=1e-12)
    np.testing.assert_allclose(found.probability, mean, atol=1e-12)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=60))
def test_equal_probabilities_share_a_bin_and_order_does_not_matter(rows: list[tuple[int, bool]]) -> None:
    probability, happened = (np.array(column) for column in zip(*rows, strict=True))
    found, turned = reliability(probability / 5, happened), reliability(probability[::-1] / 5, happened[::-1])
    assert found.error == pytest.approx(turned.error, abs=1e-12)
    assert found.count.sum() == len(rows)
    assert len(found.count) <= min(10, len(set(probability.tolist())))
    assert (np.diff(found.probability) > 0).all()


def test_error_by_hand() -> None:
    """Two bins: stated 0.2, came true in 1 of 2; stated 0.9, in 2 of 2: (0.3 + 0.1) / 2."""
    found = reliability(np.array([0.9, 0.2, 0.9, 0.2]), np.array([True, False, True, True]), bins=2)
    assert found.error == pytest.approx(0.2)


def test_what_is_calibrated_has_almost_no_error_and_overconfidence_has() -> None:
    random = np.random.default_rng(0)
    probability = random.random(20_000)
    happened = random.random(20_000) < probability
    assert reliability(probability, happened).error < 0.015
    assert reliability(np.where(probability > 0.5, 0.99, 0.01), happened).error > 0.2


def test_scores_are_scikit_learns() -> None:
    made = make_predictions(passes=0)
    found, truth = scores(*parts(made), "multiclass"), made.labels[:, 0]
    assert found["log_loss"] == pytest.approx(sk.log_loss(truth, made.probabilities), abs=1e-12)
    squares = [sk.brier_score_loss(truth == c, made.probabilities[:, c]) for c in range(5)]
    assert found["brier"] == pytest.approx(np.sum(squares), abs=1e-12)
    confidence, right = stated(*parts(made), "multiclass")
    assert right.mean() == sk.accuracy_score(truth, made.predicted)
    assert confidence.tolist() == made.probabilities.max(axis=1).tolist()


def test_multilabel_scores_pool_the_known_labels() -> None:
    made = make_predictions(task="multilabel", passes=0)
    known = made.labels >= 0
    truth, p = made.labels[known], made.probabilities[known]
    found = scores(*parts(made), "multilabel")
    assert found["log_loss"] == pytest.approx(sk.log_loss(truth, p), abs=1e-12)
    assert found["brier"] == pytest.approx(sk.brier_score_loss(truth, p), abs=1e-12)
    made.labels[:] = -1
    assert scores(*parts(made), "multilabel") == {"log_loss": None, "brier": None, "ece": None}


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_temperature_divides_the_logits_as_torch_does(task: str) -> None:
    logits = torch.randn(20, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 8
    squash = torch.sigmoid if task == "multilabel" else lambda x: torch.softmax(x, -1)
    found = tempered(squash(logits).numpy(), 1.7, task)
    np.testing.assert_allclose(found, squash(logits / 1.7), atol=1e-9)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_fit_finds_the_temperature_that_was_put_in_and_lbfgs_agrees(task: str) -> None:
    made = make_predictions(task=task, n=400, passes=0)
    fitted = fit_temperature(*parts(made), task)
    again = fit_temperature(tempered(made.probabilities, 0.4, task), made.labels, task)
    assert again == pytest.approx(fitted / 0.4, rel=1e-4)
    assert fitted == pytest.approx(_by_lbfgs(made), rel=1e-3)


def _by_lbfgs(made: Predictions) -> float:
    logits, labels = torch.tensor(made.probabilities).logit(), torch.tensor(made.labels)
    if made.task == "multiclass":
        logits = torch.tensor(made.probabilities).log()
    log_t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_t], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        scaled = logits / log_t.exp()
        if made.task == "multiclass":
            loss = torch.nn.functional.cross_entropy(scaled, labels[:, 0].long())
        else:
            known = labels >= 0
            loss = torch.nn.functional.binary_cross_entropy_with_logits(scaled[known], labels[known].double())
        loss.backward()
        return loss

    optimizer.step(closure)
    return float(log_t.detach().exp())


def test_overconfidence_is_mended_on_other_samples() -> None:
    validation, test = (make_predictions(n=1000, passes=0, data=data) for data in (1, 2))
    sharp = [(tempered(made.probabilities, 0.3, "multiclass"), made.labels) for made in (validation, test)]
    found = calibrate(*sharp, "multiclass")
    assert found["temperature"] > 1.5
    for name in ("log_loss", "brier", "ece"):
        assert found["after"][name] < found["before"][name]


def test_a_validation_split_that_determines_no_temperature_says_why() -> None:
    made = make_predictions(n=40, skill=20, passes=0)
    found = calibrate(parts(made), parts(make_predictions(n=40, passes=0)), "multiclass")
    assert found["temperature"] is found["after"] is None
    assert found["before"]["brier"] > 0
    assert found["reason"] == "no mistake in validation: the lower the temperature, the better"
    unknown = make_predictions(task="multilabel", n=4, passes=0)
    unknown.labels[:] = -1
    found = calibrate(parts(unknown), parts(unknown), "multilabel")
    assert found["reason"] == "no known label in validation"
