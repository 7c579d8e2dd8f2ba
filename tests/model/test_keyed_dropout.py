"""Keyed dropout: its masks are uniform, independent, and know nothing of the batch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cxr_dist.data import random as reference
from cxr_dist.model.dropout import DropoutKeys, KeyedDropout, hash64

ROWS, WIDTH = 2000, 64


def keys_of(sample_ids: torch.Tensor, number: int = 0, seed: int = 1) -> DropoutKeys:
    return DropoutKeys.grid(seed=seed, sample_ids=sample_ids, passes=range(number, number + 1))


@given(
    words=st.lists(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=3, max_size=3), min_size=1, max_size=4)
)
def test_hash_has_the_bits_of_the_data_rooms_hash(words: list[list[int]]) -> None:
    with np.errstate(over="ignore"):
        expected = reference.hash64(*(np.array(word, np.int64) for word in words)).view(np.int64)
    found = hash64(*(torch.tensor(word, dtype=torch.int64) for word in words))
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5])
def test_masks_drop_at_the_rate(rate: float) -> None:
    kept = KeyedDropout(rate, layer=0).kept(keys_of(torch.arange(ROWS)), WIDTH).double()
    # Four standard errors of a mean of ROWS × WIDTH, ROWS and WIDTH independent coins.
    deviation = (rate * (1 - rate)) ** 0.5
    assert abs(kept.mean() - (1 - rate)) < 4 * deviation / (ROWS * WIDTH) ** 0.5
    assert (kept.mean(0) - (1 - rate)).abs().max() < 4.5 * deviation / ROWS**0.5
    assert (kept.mean(1) - (1 - rate)).abs().max() < 4.5 * deviation / WIDTH**0.5


def test_masks_of_other_passes_samples_layers_and_seeds_are_uncorrelated() -> None:
    ids = torch.arange(ROWS)
    first = KeyedDropout(0.5, layer=0).kept(keys_of(ids), WIDTH)
    others = {
        "pass": KeyedDropout(0.5, layer=0).kept(keys_of(ids, number=1), WIDTH),
        "sample": KeyedDropout(0.5, layer=0).kept(keys_of(ids + 1), WIDTH),
        "layer": KeyedDropout(0.5, layer=1).kept(keys_of(ids), WIDTH),
        "seed": KeyedDropout(0.5, layer=0).kept(keys_of(ids, seed=2), WIDTH),
        "element": first.roll(1, dims=1),
    }
    for name, other in others.items():
        agreement = (first == other).double().mean()
        assert abs(agreement - 0.5) < 4 * 0.5 / (ROWS * WIDTH) ** 0.5, name


@given(order=st.permutations(range(8)), size=st.integers(1, 8))
def test_a_samples_mask_does_not_depend_on_its_batch(order: list[int], size: int) -> None:
    dropout = KeyedDropout(0.3, layer=2)
    whole = dropout.kept(DropoutKeys.grid(seed=3, sample_ids=torch.arange(8), passes=range(2)), 20)
    part = torch.tensor(order[:size])
    found = dropout.kept(DropoutKeys.grid(seed=3, sample_ids=part, passes=range(2)), 20)
    assert torch.equal(found.view(2, size, 20), whole.view(2, 8, 20)[:, part])


def test_survivors_are_scaled_so_that_the_mean_stays() -> None:
    dropped = KeyedDropout(0.5, layer=0)(torch.ones(ROWS, WIDTH), keys_of(torch.arange(ROWS)))
    assert set(dropped.unique().tolist()) == {0.0, 2.0}


def test_without_keys_it_is_ordinary_dropout() -> None:
    dropout, ones = KeyedDropout(0.5, layer=0), torch.ones(100, WIDTH)
    torch.manual_seed(7)
    dropped = dropout(ones)
    torch.manual_seed(7)
    assert torch.equal(dropped, torch.nn.functional.dropout(ones, 0.5))
    assert torch.equal(dropout.eval()(ones), ones)


def test_keys_drop_in_eval_mode_too() -> None:
    dropout, ones = KeyedDropout(0.5, layer=0), torch.ones(4, WIDTH)
    keys = keys_of(torch.arange(4))
    assert torch.equal(dropout.eval()(ones, keys), dropout.train()(ones, keys))
    assert (dropout(ones, keys) == 0).any()


def test_rate_zero_keeps_everything() -> None:
    ones = torch.ones(4, WIDTH)
    assert torch.equal(KeyedDropout(0.0, layer=0)(ones, keys_of(torch.arange(4))), ones)
