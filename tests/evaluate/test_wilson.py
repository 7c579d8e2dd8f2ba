"""Intervals over patients agree with scipy's for single images, and with simulations of known truth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, bootstrap
from scipy.stats import t as student_t

from benchmarks.coverage.made import Design
from benchmarks.coverage.methods import METHODS, bca_of
from cxr_dist.evaluate import wilson
from cxr_dist.evaluate.intervals import resampled


@given(st.integers(1, 200), st.floats(0, 1))
def test_with_one_image_a_patient_a_share_has_scipys_wilson_interval(trials: int, part: float) -> None:
    hits = round(part * trials)
    found = wilson.share(np.arange(trials) < hits, np.ones(trials))
    expected = binomtest(hits, trials).proportion_ci(method="wilson")
    assert found is not None
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert found.size == pytest.approx(trials)


def test_the_issues_recall_of_29_of_29_has_a_lower_bound_below_1() -> None:
    found = wilson.share(np.ones(29), np.ones(29))
    assert found is not None
    assert found.low == pytest.approx(29 / (29 + 1.959964**2), abs=1e-6)
    assert found.high == 1.0


@given(st.lists(st.integers(1, 5), min_size=2, max_size=40), st.integers(0, 2**30))
def test_the_effective_size_lies_between_patients_alike_and_images(images: list[int], seed: int) -> None:
    trials = np.array(images, dtype=np.float64)
    hits = np.random.default_rng(seed).binomial(images, 0.8).astype(np.float64)
    found = wilson.share(hits, trials)
    assert found is not None
    assert trials.sum() ** 2 / (trials**2).sum() - 1e-9 <= found.size <= trials.sum() + 1e-9


def test_copies_of_images_add_no_trials() -> None:
    hits = np.array([1, 1, 1, 0, 1, 1, 0, 1.0])
    once, thrice = wilson.share(hits, np.ones(8)), wilson.share(3 * hits, np.full(8, 3.0))
    assert once is not None
    assert thrice is not None
    assert (thrice.low, thrice.high, thrice.size) == pytest.approx((once.low, once.high, once.size))


def bounds_of(value: float, low: float, high: float, size: float) -> wilson.Bounds:
    return wilson.Bounds(value=value, low=low, high=high, size=size)


def test_the_distances_of_two_shares_add_up_like_variances_in_their_mean() -> None:
    found = wilson.balanced_accuracy(bounds_of(0.8, 0.5, 0.92, 40), bounds_of(0.6, 0.2, 0.69, 10))
    assert found is not None
    assert found.value == pytest.approx(0.7)
    assert (found.low, found.high) == pytest.approx((0.7 - 0.5 / 2, 0.7 + 0.15 / 2))  # 3-4-5 triangles
    # The variance of the mean of shares of equal spread: (1 / 40 + 1 / 10) / 2² = 1 / 32.
    assert found.size == pytest.approx(32)
    assert wilson.balanced_accuracy(None, bounds_of(0.6, 0.2, 0.69, 10)) is None
    assert wilson.balanced_accuracy(bounds_of(0.6, 0.2, 0.69, 10), None) is None


def test_f1_follows_from_the_jaccard_index_of_the_same_cells() -> None:
    """With tp, fp, fn = 6, 3, 1, Jaccard is 6 / 10 and F1 is 12 / 16."""
    found = wilson.f1(bounds_of(0.6, 1 / 3, 1.0, 10))
    assert found == bounds_of(pytest.approx(12 / 16), pytest.approx(0.5), 1.0, 10)
    assert wilson.f1(None) is None


def test_an_area_is_worth_the_trials_of_its_variance_and_no_more_than_the_most() -> None:
    resamples = np.array([0.7, 0.9, np.nan, 0.8, 0.8])
    found = wilson.area(0.8, resamples, 1000.0)
    assert found is not None
    assert found.size == pytest.approx(0.8 * 0.2 / (0.02 / 4))
    assert found == wilson.wilson(0.8, found.size)
    assert wilson.area(0.8, resamples, 20.0) == wilson.wilson(0.8, 20.0)
    assert wilson.area(0.8, np.full(5, 0.8), 20.0) == wilson.wilson(0.8, 20.0)
    assert wilson.area(1.0, np.ones(5), 20.0) == wilson.wilson(1.0, 20.0)
    assert wilson.area(np.nan, resamples, 20.0) is wilson.area(0.8, np.full(3, np.nan), 20.0) is None


def test_an_area_without_its_bias_is_centred_as_far_below_as_its_resamples_lie_above() -> None:
    found = wilson.area(0.6, np.array([0.6, 0.8]), 20.0, unbiased=True)
    assert found == wilson.wilson(0.6, 20.0, 2 * 0.6 - 0.7)
    # The corrected value lies at most at 1, where it has no variance of its own.
    assert wilson.area(0.9, np.array([0.6, 0.8]), 20.0, unbiased=True) == wilson.wilson(0.9, 20.0, 1.0)


def test_the_benchmarks_bca_agrees_with_scipys() -> None:
    values = np.random.default_rng(0).exponential(size=40)
    scipys = bootstrap((values,), np.mean, n_resamples=20_000, method="BCa", rng=1).confidence_interval
    drawn = np.random.default_rng(2).choice(values, (20_000, 40)).mean(axis=1)
    left_out = (values.sum() - values) / 39
    assert bca_of(float(values.mean()), drawn, left_out) == pytest.approx((scipys.low, scipys.high), abs=0.02)


def test_log_intervals_of_many_patients_are_those_of_the_normal_distribution() -> None:
    losses = np.random.default_rng(0).exponential(size=5000)
    found, error = wilson.loss(losses, np.ones(5000)), losses.std() / np.sqrt(5000)
    assert found is not None
    assert (found.low, found.high) == pytest.approx(
        (losses.mean() - 1.96 * error, losses.mean() + 1.96 * error), abs=0.002
    )


@pytest.mark.parametrize(
    ("losses", "error", "freedom"),
    [
        ([1.0, 1.0, 1.0, 5.0], 1.0, 3.0),  # one less than the patients
        ([1.0] * 49 + [51.0], 1.0, 2 / ((49 + 49**4) / 2450**2 - 1 / 50)),  # 2k / (kurtosis - 1)
    ],
)
def test_a_loss_has_students_interval_of_its_logarithm(losses: list[float], error: float, freedom: float) -> None:
    """The mean is 2, and its standard error follows from the variance between patients."""
    for labels in (1.0, 2.0):  # a patient's labels add up, and change nothing if all have as many
        found = wilson.loss(labels * np.array(losses), np.full(len(losses), labels))
        assert found is not None
        factor = np.exp(student_t.ppf(0.975, freedom) * error / 2)
        assert (found.value, found.low, found.high) == pytest.approx((2, 2 / factor, 2 * factor))
        assert found.size == len(losses)
    bounded = wilson.loss(np.array(losses), np.ones(len(losses)), largest=2.5)
    assert bounded is not None
    assert bounded.high == 2.5


def test_a_loss_of_one_patient_without_labels_or_without_differences_has_no_interval() -> None:
    assert wilson.loss(np.array([1.0]), np.array([2.0])) is None
    assert wilson.loss(np.array([1.0, 0.0, 0.0]), np.array([2.0, 0.0, 0.0])) is None
    assert wilson.loss(np.zeros(2), np.zeros(2)) is wilson.loss(np.ones(3), np.ones(3)) is None
    assert wilson.loss(np.array([0.5, 1.5]), np.ones(2)) is not None


@pytest.mark.parametrize(
    ("design", "path"),
    [
        (Design(positives=6, images=60, auc=0.92, classes=1), ("per_class", "class 0", "roc_auc")),
        (Design(positives=6, images=60, auc=0.8), ("macro", "average_precision")),
        (Design(positives=25, images=60, auc=0.98, recall=0.95, classes=1), ("per_class", "class 0", "recall")),
    ],
)
def test_intervals_cover_where_percentiles_do_not(design: Design, path: tuple[str, ...]) -> None:
    """The benchmark measures this with more data sets, for every metric."""
    random, truth, hits = np.random.default_rng(0), design.truths()[path], {"percentile": 0, "cxr_dist": 0}
    for trial in range(100):
        predictions = design.draw(random)
        many = resampled(predictions, 60, trial)
        for name in hits:
            low, high = METHODS[name](predictions, many)[path]
            hits[name] += low <= truth <= high
    assert hits["cxr_dist"] >= 88  # the binomial distribution of 100 trials at 0.93 has 95% of its mass from 88
    assert hits["percentile"] < hits["cxr_dist"]
