"""Intercept and slope are those of an unpenalised logistic regression, and None where that has no finite answer."""

import numpy as np
import pytest
from made_runs import make_predictions
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from cxr_dist.evaluate.calibration import scores
from cxr_dist.evaluate.calibration_line import calibration_line

NONE = {"intercept": None, "slope": None}


@pytest.mark.parametrize(("m", "shift", "scale"), [(20, 0.0, 1.0), (300, -1.5, 0.5), (5000, 2.0, 3.0)])
def test_equals_scikit_learn(m: int, shift: float, scale: float) -> None:
    random = np.random.default_rng(m)
    z = random.normal(0, 1.5, size=m)
    happened = random.random(m) < expit(z)
    probability = expit(shift + scale * z)
    found = calibration_line(probability, happened)
    model = LogisticRegression(penalty=None, tol=1e-12, max_iter=10_000)
    model.fit(logit(probability)[:, None], happened)
    assert found["slope"] == pytest.approx(model.coef_[0, 0], abs=1e-5)
    assert found["intercept"] == pytest.approx(model.intercept_[0], abs=1e-5)


def test_a_known_distortion_is_recovered() -> None:
    random = np.random.default_rng(1)
    z = random.normal(0, 1.5, size=200_000)
    happened = random.random(len(z)) < expit(z)
    assert calibration_line(expit(z), happened) == {
        "intercept": pytest.approx(0, abs=0.03),
        "slope": pytest.approx(1, abs=0.03),
    }
    twice_and_shifted = calibration_line(expit(2 * z + 1), happened)  # z = (logit - 1) / 2
    assert twice_and_shifted == {"intercept": pytest.approx(-0.5, abs=0.03), "slope": pytest.approx(0.5, abs=0.03)}


def test_extreme_probabilities_are_no_obstacle() -> None:
    probability = np.array([0.0, 1.0, 0.0, 1.0, 0.5, 0.5])
    happened = np.array([False, True, True, False, True, False])
    assert calibration_line(probability, happened) == {
        "intercept": pytest.approx(0, abs=1e-6),
        "slope": pytest.approx(0, abs=1e-6),
    }


@pytest.mark.parametrize(
    ("probability", "happened"),
    [
        ([0.2, 0.6], [False, False]),
        ([0.2, 0.6], [True, True]),
        ([0.3, 0.3, 0.3], [True, False, True]),
        ([0.1, 0.2, 0.8, 0.9], [False, False, True, True]),
        ([0.1, 0.2, 0.8, 0.9], [True, True, False, False]),
        ([0.1, 0.5, 0.5, 0.9], [False, False, True, True]),
    ],
)
def test_none_where_no_finite_line_fits_best(probability: list[float], happened: list[bool]) -> None:
    assert calibration_line(np.array(probability), np.array(happened)) == NONE


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_scores_pool_every_known_label(task: str) -> None:
    predictions = make_predictions(task=task, passes=0)
    found = scores(predictions.probabilities, predictions.labels, predictions.task)
    ones = predictions.each_class()
    pooled = calibration_line(np.concatenate([one.score for one in ones]), np.concatenate([one.truth for one in ones]))
    assert {name: found[name] for name in NONE} == {k: pytest.approx(v, abs=1e-8) for k, v in pooled.items()}


def test_extreme_predictions_for_which_newtons_steps_are_too_long() -> None:
    """One event is predicted with a logit of 20, and the others hardly: whole steps increase the loss."""
    z = np.array([20.0] + [0.0] * 21 + [-5.0] * 105)
    happened = np.array([True] + [True] + [False] * 20 + [True] * 5 + [False] * 100)
    model = LogisticRegression(penalty=None, tol=1e-12, max_iter=10_000).fit(z[:, None], happened)
    assert calibration_line(expit(z), happened) == {
        "intercept": pytest.approx(model.intercept_[0], abs=1e-4),
        "slope": pytest.approx(model.coef_[0, 0], abs=1e-4),
    }
