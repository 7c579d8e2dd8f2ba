"""Risk–coverage curves agree with enumerating every order of equally uncertain answers."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_runs import make_predictions
from scipy import stats

from cxr_dist.evaluate.risk_coverage import (
    accuracy_at,
    coverage_figures,
    error_auroc,
    mc_answers,
    mc_metrics,
    measures,
    risk_coverage,
    samples_of_answers,
    weighted_aurc,
)

answers = st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=6)


def arrays(pairs: list[tuple[int, bool]]) -> tuple[np.ndarray, np.ndarray]:
    uncertainty, right = (np.array(column) for column in zip(*pairs, strict=True))
    return uncertainty / 2, right


@settings(max_examples=60)
@given(answers)
def test_area_is_the_mean_over_all_orders_of_ties(pairs: list[tuple[int, bool]]) -> None:
    uncertainty, right = arrays(pairs)
    areas = []
    for order in itertools.permutations(range(len(right))):
        if (np.diff(uncertainty[list(order)]) >= 0).all():
            wrong = ~right[list(order)]
            areas.append((np.cumsum(wrong) / np.arange(1, len(wrong) + 1)).mean())
    once = np.ones((1, len(right)))
    assert weighted_aurc(uncertainty, right, once)[0] == pytest.approx(np.mean(areas), abs=1e-12)


@given(answers, st.data())
def test_weights_repeat_answers(pairs: list[tuple[int, bool]], data: st.DataObject) -> None:
    uncertainty, right = arrays(pairs)
    weight = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(right), max_size=len(right))))
    result = weighted_aurc(uncertainty, right, weight[None].astype(np.float64))[0]
    if weight.sum() == 0:
        assert np.isnan(result)
    else:
        repeated = np.repeat(uncertainty, weight), np.repeat(right, weight)
        once = np.ones((1, weight.sum()))
        assert result == pytest.approx(weighted_aurc(*repeated, once)[0], abs=1e-12)


def test_figures_by_hand() -> None:
    """The mistakes rank third and fifth: risks 0, 0, 1/3, 1/4, 2/5; a perfect ranking has 0, 0, 0, 1/4, 2/5."""
    right = np.array([True, True, False, True, False])
    result = coverage_figures(np.arange(5.0), right)
    assert result["aurc"] == pytest.approx((1 / 3 + 1 / 4 + 2 / 5) / 5)
    assert result["excess_aurc"] == pytest.approx(1 / 15)
    assert result["accuracy_at_coverage"] == {
        "0.80": 0.75,
        "0.90": pytest.approx(0.6),
        "0.95": pytest.approx(0.6),
    }
    coverage, risk = risk_coverage(np.arange(5.0), right)
    assert coverage.tolist() == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert risk == pytest.approx([0, 0, 1 / 3, 1 / 4, 2 / 5])


def test_a_perfect_ranking_has_no_excess_and_an_auroc_of_one() -> None:
    right = np.array([True] * 7 + [False] * 3)
    assert coverage_figures(1 - right * 1.0, right)["excess_aurc"] == 0
    assert error_auroc(1 - right * 1.0, right) == 1
    assert error_auroc(np.zeros(10), right) == 0.5
    assert error_auroc(np.zeros(3), np.ones(3, dtype=bool)) is None


def test_with_equal_uncertainty_every_coverage_has_the_overall_accuracy() -> None:
    right = np.array([True, False, True, True, False] * 4)
    assert [accuracy_at(c, np.zeros(20), right) for c in (0.8, 0.95, 1.0)] == pytest.approx([0.6] * 3)
    order = np.arange(20.0)
    assert accuracy_at(0.95, order, right) == right[:19].mean()


def test_metrics_refer_to_the_prediction_of_the_mean_and_to_each_measure() -> None:
    predictions = make_predictions()
    assert predictions.mc is not None
    result, (uncertainty, right) = mc_metrics(predictions, predictions.mc), mc_answers(predictions)
    assert right.tolist() == (predictions.mc.mean.argmax(1) == predictions.labels[:, 0]).tolist()
    assert result["variance"] == pytest.approx(predictions.mc.variance.mean())
    assert result["expected_entropy"] == pytest.approx(predictions.mc.expected_entropy.mean())
    assert result["mutual_information"] == pytest.approx(predictions.mc.mutual_information.mean())
    of_right, of_wrong = uncertainty[right].mean(), uncertainty[~right].mean()
    assert result["predictive_entropy"] == {"right": pytest.approx(of_right), "wrong": pytest.approx(of_wrong)}
    assert (result["passes"], result["answers"], result["accuracy"]) == (30, len(right), pytest.approx(right.mean()))
    assert list(result["error_auroc"]) == ["predictive_entropy", "mutual_information", "variance"]
    wins = stats.mannwhitneyu(uncertainty[~right], uncertainty[right]).statistic
    pairs = right.sum() * (~right).sum()
    assert result["error_auroc"]["predictive_entropy"] == pytest.approx(wins / pairs)
    assert 0 < result["excess_aurc"] < result["aurc"] < 1 - result["accuracy"]


def test_multilabel_answers_are_the_known_labels() -> None:
    predictions = make_predictions(task="multilabel", n=3, classes=("a", "b"))
    predictions.labels[:] = [[1, -1], [0, 1], [-1, -1]]
    assert samples_of_answers(predictions).tolist() == [0, 1, 1]
    result = measures(predictions)
    assert list(result) == ["predictive_entropy", "variance"]
    assert {len(values) for values in result.values()} == {3}


def test_without_answers_all_figures_are_null() -> None:
    result = coverage_figures(np.zeros(0), np.zeros(0, dtype=bool))
    assert result["aurc"] is result["excess_aurc"] is result["accuracy_at_coverage"]["0.90"] is None
