"""The summary of Monte-Carlo dropout agrees with its definitions, and the quarter's figures with a count by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cxr_dist.evaluate.uncertainty import entropy, most_uncertain_quarter, quarter_figures, summarise


def passes(seed: int, shape: tuple[int, int, int] = (30, 7, 4)) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.full(shape[2], 0.4), size=shape[:2])


def test_multiclass_entropies_equal_torch() -> None:
    samples = passes(0)
    summary = summarise(samples, "multiclass")
    mean = torch.tensor(samples).mean(0)
    expected = torch.distributions.Categorical(probs=torch.tensor(samples)).entropy().mean(0)
    np.testing.assert_allclose(
        summary.predictive_entropy, torch.distributions.Categorical(probs=mean).entropy(), rtol=1e-12
    )
    np.testing.assert_allclose(summary.expected_entropy, expected, rtol=1e-6)  # torch clamps p at 1e-16
    np.testing.assert_allclose(summary.variance, torch.tensor(samples).var(0, unbiased=False), rtol=1e-10)
    assert summary.passes == 30


def test_multilabel_entropy_is_the_sum_of_binary_entropies() -> None:
    samples = np.random.default_rng(1).uniform(size=(5, 3, 2))
    binary = torch.distributions.Bernoulli(probs=torch.tensor(samples)).entropy().sum(-1).mean(0)
    np.testing.assert_allclose(summarise(samples, "multilabel").expected_entropy, binary, rtol=1e-12)


@given(st.integers(0, 2**32 - 1), st.sampled_from(["multiclass", "multilabel"]))
def test_entropies_and_mutual_information_keep_their_bounds(seed: int, task: str) -> None:
    """0 ≤ mutual information ≤ predictive entropy ≤ entropy of the uniform distribution (Jensen)."""
    summary = summarise(passes(seed), task)
    most = np.log(4) if task == "multiclass" else 4 * np.log(2)
    assert (summary.mutual_information >= 0).all()
    assert (summary.mutual_information <= summary.predictive_entropy + 1e-12).all()
    assert (summary.predictive_entropy <= most + 1e-12).all()


def test_certain_and_agreeing_passes_have_no_uncertainty() -> None:
    summary = summarise(np.tile(np.eye(3), (4, 1, 1)), "multiclass")
    assert summary.predictive_entropy.tolist() == [0, 0, 0]
    assert summary.mutual_information.tolist() == [0, 0, 0]


def test_the_uncertainty_of_certain_but_disagreeing_passes_is_mutual_information() -> None:
    summary = summarise(np.array([[[1.0, 0.0]], [[0.0, 1.0]]]), "multiclass")
    assert summary.mutual_information[0] == pytest.approx(np.log(2))
    assert summary.expected_entropy[0] == 0


def test_tensors_are_accepted_and_mutual_information_is_never_negative() -> None:
    one = torch.softmax(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    summary = summarise(one.repeat(7, 1, 1), "multiclass")
    assert summary.mean.dtype == np.float64
    assert (summary.mutual_information >= 0).all()
    np.testing.assert_allclose(summary.mutual_information, 0, atol=1e-12)


def test_entropy_is_defined_at_zero_probability() -> None:
    assert entropy(np.array([0.0, 1.0, 0.0]), "multilabel") == 0


@given(st.lists(st.floats(0, 3), min_size=1, max_size=40))
def test_the_quarter_has_the_right_size_and_holds_the_largest(values: list[float]) -> None:
    uncertainty = np.array(values)
    mask = most_uncertain_quarter(uncertainty)
    assert mask.sum() == -(-len(values) // 4)
    assert mask.all() or uncertainty[mask].min() >= uncertainty[~mask].max()


def test_of_equal_samples_the_earlier_are_taken() -> None:
    assert most_uncertain_quarter(np.ones(8)).tolist() == [True, True] + [False] * 6


def test_quarter_figures_by_hand() -> None:
    uncertainty = np.array([0.9, 0.1, 0.8, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.05, 0.15, 0.25])
    right = np.array([False, True, False, True, False, True, True, True, True, True, True, True])
    figures = quarter_figures(uncertainty, right)
    assert figures["most_uncertain_quarter"] == {"n": 3, "misclassified": 2, "share_misclassified": 2 / 3}
    assert figures["rest"] == {"n": 9, "correct": 8, "share_correct": 8 / 9}


@pytest.mark.parametrize("rows", [[4, 0, 2], []])
def test_selected_samples_keep_all_their_values(rows: list[int]) -> None:
    whole = summarise(passes(3), "multiclass")
    part = whole.select(np.array(rows, np.int64))
    for name in ("mean", "variance", "predictive_entropy", "expected_entropy", "mutual_information"):
        np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[rows])
    assert part.passes == 30


def test_the_share_of_an_empty_rest_is_null() -> None:
    assert quarter_figures(np.ones(1), np.ones(1, dtype=bool))["rest"]["share_correct"] is None
