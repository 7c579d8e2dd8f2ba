"""DeLong's test agrees with a published example and its definition, and p-values keep their level."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import make_predictions
from sklearn.metrics import roc_auc_score

from cxr_dist.evaluate.compare import HEADLINE
from cxr_dist.evaluate.intervals import resampled
from cxr_dist.evaluate.metrics import compute_metrics, mean_auc
from cxr_dist.evaluate.paired import (
    Difference,
    auc_difference,
    bootstrap_difference,
    clustered_variance,
    delong,
    holm,
    p_text,
    placements,
)


def test_standard_error_of_a_published_example() -> None:
    """Ratings of 109 CT scans from 1 to 5 (Hanley and McNeil, Radiology 1982, table I).

    The expected area, standard error by DeLong and interval are those of Stata's manual for `roctab`.
    """
    normal, abnormal = (33, 6, 6, 11, 2), (3, 2, 2, 11, 33)
    score = np.concatenate([np.repeat(np.arange(5.0), counts) for counts in (normal, abnormal)])
    truth = np.arange(109) >= 58
    above, below = placements(truth, score)
    assert above.mean() == pytest.approx(0.8932, abs=5e-5)
    variance = clustered_variance(truth, above, below, np.arange(109))
    assert variance is not None
    assert np.sqrt(variance) == pytest.approx(0.0307, abs=5e-5)
    half = 1.959964 * np.sqrt(variance)
    assert above.mean() - half == pytest.approx(0.83295, abs=1e-5)
    assert above.mean() + half == pytest.approx(0.95339, abs=1e-5)


def slow_placements(truth: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The definition over all pairs, in O(positives · negatives)."""
    gap = score[truth][:, None] - score[~truth][None]
    wins = (gap > 0) + 0.5 * (gap == 0)
    return wins.mean(axis=1), wins.mean(axis=0)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.integers(0, 9)), min_size=4, max_size=40))
def test_fast_delong_agrees_with_the_definition(rows: list[tuple[bool, int, int]]) -> None:
    truth, first, second = (np.array(column) for column in zip(*rows, strict=True))
    positive, negative = int(truth.sum()), int((~truth).sum())
    result = delong(truth, first, second, np.arange(len(truth)))
    if not positive or not negative:
        assert result.value is None
        return
    (a10, a01), (b10, b01) = slow_placements(truth, first), slow_placements(truth, second)
    np.testing.assert_allclose(placements(truth, first)[0], a10, atol=1e-12)
    np.testing.assert_allclose(placements(truth, first)[1], a01, atol=1e-12)
    expected = roc_auc_score(truth, first) - roc_auc_score(truth, second)
    assert result.value == pytest.approx(expected, abs=1e-12)
    if positive < 2 or negative < 2:
        assert result.p is None
        return
    s10, s01 = np.cov(a10, b10), np.cov(a01, b01)
    contrast = np.array([1, -1])
    variance = contrast @ (s10 / positive + s01 / negative) @ contrast
    assert result.value is not None
    if variance < 1e-20 and abs(expected) > 1e-12:
        assert (result.high, result.p) == (None, None)
        assert "no variance" in result.reason
        return
    assert result.high is not None
    assert result.high - result.value == pytest.approx(1.959964 * np.sqrt(max(variance, 0)), abs=1e-6)


def test_copies_of_an_image_do_not_count_as_new_patients() -> None:
    """Three copies of each image, clustered, give the p-value of the images alone; unclustered, a smaller one."""
    predictions, other = make_predictions(n=80, passes=0), make_predictions(n=80, passes=0, seed=1)
    one, two = predictions.one_class(0), other.one_class(0)
    once = delong(one.truth, one.score, two.score, np.arange(80))
    thrice = [np.repeat(values, 3) for values in (one.truth, one.score, two.score)]
    clustered = delong(*thrice, np.repeat(np.arange(80), 3))
    naive = delong(*thrice, np.arange(240))
    assert clustered.p == pytest.approx(once.p, abs=1e-9)
    assert naive.p is not None
    assert once.p is not None
    assert naive.p < once.p


def obuchowski(truth: np.ndarray, first: np.ndarray, second: np.ndarray, patients: np.ndarray) -> float:
    """Variance of the difference of two AUCs, as Obuchowski (Biometrics 1997) writes it, patient by patient."""
    (a10, a01), (b10, b01) = slow_placements(truth, first), slow_placements(truth, second)
    m, n = truth.sum(), (~truth).sum()
    names = sorted(set(patients))
    i10, i01 = (len(set(patients[side])) for side in (truth, ~truth))
    total = len(names)

    def covariance(x10: np.ndarray, x01: np.ndarray, y10: np.ndarray, y01: np.ndarray) -> float:
        ax, ay = x10.mean(), y10.mean()
        s10 = s01 = s11 = 0.0
        for name in names:
            positive, negative = patients[truth] == name, patients[~truth] == name
            x_positive, y_positive = (x10[positive] - ax).sum(), (y10[positive] - ay).sum()
            x_negative, y_negative = (x01[negative] - ax).sum(), (y01[negative] - ay).sum()
            s10 += i10 / ((i10 - 1) * m) * x_positive * y_positive
            s01 += i01 / ((i01 - 1) * n) * x_negative * y_negative
            s11 += total / (total - 1) * (x_positive * y_negative + x_negative * y_positive)
        return s10 / m + s01 / n + s11 / (m * n)

    ours, theirs = (a10, a01), (b10, b01)
    return covariance(*ours, *ours) + covariance(*theirs, *theirs) - 2 * covariance(*ours, *theirs)


@pytest.mark.parametrize("seed", range(5))
def test_the_cluster_correction_is_obuchowskis(seed: int) -> None:
    random = np.random.default_rng(seed)
    patients, truth = random.integers(0, 12, 40), random.random(40) < 0.4
    first, second = (truth + random.normal(size=40) + random.normal(size=12)[patients] for _ in range(2))
    result = delong(truth, first, second, patients)
    assert result.high is not None
    assert result.value is not None
    error = (result.high - result.value) / 1.959964
    assert error**2 == pytest.approx(obuchowski(truth, first, second, patients), rel=1e-5)


@pytest.mark.parametrize("positives", [3, 7, 30])
def test_a_difference_without_variance_has_no_p_value(positives: int) -> None:
    """A perfect score beats a constant one in every pair alike: the test has no answer, and above all not p = 1."""
    truth = np.arange(3 * positives) < positives
    result = delong(truth, truth.astype(float), np.full(len(truth), 0.5), np.arange(len(truth)))
    assert result.value == pytest.approx(0.5)
    assert result.p is result.low is result.high is None
    assert result.reason == "the difference has no variance in this sample, so DeLong's test cannot be computed"
    assert p_text(result) == "p not defined"
    assert result.method == "DeLong"


def test_scores_that_rank_alike_have_p_1() -> None:
    predictions = make_predictions(n=60, passes=0)
    one = predictions.one_class(0)
    result = delong(one.truth, one.score, one.score**3, np.arange(60))
    assert result == Difference(value=0.0, low=0.0, high=0.0, p=1.0, method="DeLong")


def test_clustered_interval_agrees_with_the_bootstrap_over_patients() -> None:
    predictions = [make_predictions(n=400, passes=0, seed=seed, skill=skill) for seed, skill in ((0, 1.0), (1, 1.6))]
    path = ("per_class", "effusion", "roc_auc")
    values = [compute_metrics(p)["per_class"]["effusion"]["roc_auc"] for p in predictions]
    resamples = [resampled(p, 1000, 0) for p in predictions]
    bootstrap = bootstrap_difference((values[1], values[0]), (resamples[1], resamples[0]), path)
    analytic = auc_difference(predictions[1], predictions[0], 2)
    assert analytic.value == pytest.approx(bootstrap.value)
    for side in ("low", "high"):
        assert getattr(analytic, side) == pytest.approx(getattr(bootstrap, side), abs=0.01)


def test_p_values_keep_their_level_under_the_null_hypothesis() -> None:
    """For two runs of equal skill, either test gives p ≤ 0.1 in about a tenth of 100 data sets."""
    small = {"bootstrap": 0, "delong": 0}
    for data in range(100):
        pair = [make_predictions(n=60, passes=0, classes=("a", "b"), seed=s, data=100 + data) for s in (1, 2)]
        pair = [dataclasses.replace(p, patients=p.keys) for p in pair]
        resamples = tuple(resampled(p, 100, seed=data) for p in pair)
        values = mean_auc(pair[0]), mean_auc(pair[1])
        small["bootstrap"] += bootstrap_difference(values, resamples, HEADLINE["macro_roc_auc"]).p <= 0.1
        small["delong"] += auc_difference(*pair, 0).p <= 0.1
    assert all(3 <= count <= 19 for count in small.values()), small  # middle 99% of the binomial distribution


def test_holm_adjusts_as_by_hand_and_ignores_undefined_values() -> None:
    ps = [0.01, None, 0.04, 0.03, 0.005]
    found = [each.p_holm for each in holm([Difference(p=p, method="DeLong") for p in ps])]
    assert found == [pytest.approx(0.03), None, pytest.approx(0.06), pytest.approx(0.06), pytest.approx(0.02)]
    assert [each.p_holm for each in holm([Difference(p=0.7, method="DeLong")] * 2)] == [1.0, 1.0]


def test_a_p_that_is_too_small_for_a_float_stays_the_smallest() -> None:
    family = holm([Difference(p=p, method="DeLong") for p in (0.02, 0.0)])
    assert [each.p_holm for each in family] == [0.02, 0.0]


def test_a_p_value_at_the_floor_of_the_bootstrap_is_a_bound() -> None:
    path = ("accuracy",)
    above, zero = {path: np.linspace(0.1, 0.2, 1000)}, {path: np.zeros(1000)}
    difference = bootstrap_difference((0.15, 0.0), (above, zero), path)
    assert difference.p == difference.p_floor == 2 / 1001
    assert p_text(difference) == "p ≤ 0.002"
    assert p_text(holm([difference] * 4)[0]) == "p ≤ 0.002, adjusted ≤ 0.008"
    above[path][0] = -0.1
    assert p_text(bootstrap_difference((0.15, 0.0), (above, zero), path)) == "p = 0.004"
    assert p_text(holm([Difference(p=0.0004, method="DeLong")] * 3)[2]) == "p < 0.001, adjusted 0.001"
    assert p_text(Difference(method="DeLong")) == "p not defined"


def test_p_of_the_bootstrap_is_that_of_a_rank_by_enumeration() -> None:
    """If 0 is equally likely to have each of the five ranks among four resamples, P(p ≤ a) is a for each p that occurs.

    Without the one that is added to either count, an extreme rank would have p = 0.
    """
    path, ranks = ("accuracy",), np.arange(5.0)
    ps = []
    for reference in ranks:
        others = {path: np.delete(ranks, int(reference)) - reference}
        difference = bootstrap_difference((0.1, 0.0), (others, {path: np.zeros(4)}), path)
        ps.append(difference.p)
        assert difference.p_floor == pytest.approx(2 / 5)
    assert ps == pytest.approx([2 / 5, 4 / 5, 1, 4 / 5, 2 / 5])
    assert all(np.mean(np.array(ps) <= level + 1e-12) == pytest.approx(level) for level in (2 / 5, 4 / 5, 1))


def test_undefined_metrics_have_no_difference() -> None:
    predictions = make_predictions(n=30, passes=0)
    resamples = resampled(predictions, 10, 0)
    for values in ((None, 0.5), (0.5, None)):
        undefined = bootstrap_difference(values, (resamples, resamples), ("accuracy",))
        assert undefined == Difference(method="paired bootstrap")
    assert delong(np.ones(3, bool), np.arange(3.0), np.arange(3.0), np.arange(3)) == Difference(method="DeLong")
    one_patient = delong(np.array([True, False, True]), np.arange(3.0), np.arange(3.0), np.zeros(3))
    assert (one_patient.value, one_patient.p) == (0, None)
