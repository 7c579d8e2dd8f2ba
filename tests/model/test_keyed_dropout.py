"""Keyed dropout: its masks are uniform, independent, and the same in any batch and with any padding."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from cxr_dist.data import random as reference
from cxr_dist.model.dropout import DropoutKeys, KeyedDropout, drop_rows, hash_tensors, kept_elements

ROWS, WIDTH = 2000, 64


def keys_of(sample_ids: torch.Tensor, number: int = 0, seed: int = 1) -> DropoutKeys:
    return DropoutKeys.grid(seed=seed, sample_ids=sample_ids, passes=range(number, number + 1))


def kept(keys: DropoutKeys, rate: float = 0.5, layer: int = 0, width: int = WIDTH) -> torch.Tensor:
    return kept_elements(keys, [width], rate, layer)


@given(words=st.lists(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=3, max_size=3), min_size=1, max_size=4))
def test_the_hash_of_tensors_equals_that_of_arrays(words: list[list[int]]) -> None:
    with np.errstate(over="ignore"):
        expected = reference.hash64(*(np.array(word, np.int64) for word in words)).view(np.int64)
    hashed = hash_tensors(*(torch.tensor(word, dtype=torch.int64) for word in words))
    assert hashed.tolist() == expected.tolist()


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5])
def test_masks_drop_at_the_rate(rate: float) -> None:
    mask = kept(keys_of(torch.arange(ROWS)), rate).double()
    # The bounds are about four standard errors of the mean of ROWS × WIDTH, ROWS and WIDTH independent draws.
    deviation = (rate * (1 - rate)) ** 0.5
    assert abs(mask.mean() - (1 - rate)) < 4 * deviation / (ROWS * WIDTH) ** 0.5
    assert (mask.mean(0) - (1 - rate)).abs().max() < 4.5 * deviation / ROWS**0.5
    assert (mask.mean(1) - (1 - rate)).abs().max() < 4.5 * deviation / WIDTH**0.5


def test_masks_of_other_passes_samples_layers_seeds_and_elements_are_uncorrelated() -> None:
    ids = torch.arange(ROWS)
    first = kept(keys_of(ids))
    others = {
        "pass": kept(keys_of(ids, number=1)),
        "sample": kept(keys_of(ids + 1)),
        "layer": kept(keys_of(ids), layer=1),
        "seed": kept(keys_of(ids, seed=2)),
        "element": first.roll(1, dims=1),
        "element of the next word": first.roll(4, dims=1),
    }
    for name, other in others.items():
        agreement = (first == other).double().mean()
        assert abs(agreement - 0.5) < 4 * 0.5 / (ROWS * WIDTH) ** 0.5, name


@given(order=st.permutations(range(8)), size=st.integers(1, 8), width=st.integers(1, 21))
def test_a_samples_mask_does_not_depend_on_its_batch(order: list[int], size: int, width: int) -> None:
    whole = kept(DropoutKeys.grid(seed=3, sample_ids=torch.arange(8), passes=range(2)), 0.3, 2, width)
    part = torch.tensor(order[:size])
    masks = kept(DropoutKeys.grid(seed=3, sample_ids=part, passes=range(2)), 0.3, 2, width)
    assert torch.equal(masks.view(2, size, width), whole.view(2, 8, width)[:, part])


@given(height=st.integers(1, 9), width=st.integers(1, 9))
def test_padding_of_an_axis_changes_no_mask(height: int, width: int) -> None:
    keys = keys_of(torch.arange(3))
    padded = kept_elements(keys, (2, 9, 9), 0.4, 0)
    assert torch.equal(kept_elements(keys, (2, height, width), 0.4, 0), padded[:, :, :height, :width])


def test_kept_elements_are_scaled_so_that_the_mean_is_preserved() -> None:
    dropped = drop_rows(torch.ones(ROWS, WIDTH), keys_of(torch.arange(ROWS)), 0.5, 0)
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    rare = drop_rows(torch.ones(ROWS, WIDTH), keys_of(torch.arange(ROWS)), 0.1, 0)
    assert rare.max().item() == pytest.approx(1 / (1 - round(0.1 * 65_536) / 65_536))


class Calls(nn.Module):
    """All kinds of dropout calls: a layer, a functional, and attention with a keyword or a positional rate."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Dropout(0.5)

    def forward(self, rows: torch.Tensor) -> list[torch.Tensor]:
        heads = rows.view(len(rows), 1, 8, 8)
        return [
            self.layer(rows),
            functional.dropout(rows, 0.5, self.training),
            functional.dropout(rows, p=0.5, training=self.training),
            functional.scaled_dot_product_attention(heads, heads, heads, dropout_p=0.5 * self.training),
            functional.scaled_dot_product_attention(heads, heads, heads, None, 0.5 * self.training),
        ]


def test_every_kind_of_dropout_is_keyed_and_none_uses_the_random_generator() -> None:
    model, rows, keys = Calls(), torch.ones(6, 64), keys_of(torch.arange(6))
    state = torch.get_rng_state()
    with KeyedDropout(keys, first_layer=5):
        first = model(rows)
    with KeyedDropout(keys, first_layer=5):
        again = model(rows)
    assert torch.equal(torch.get_rng_state(), state)
    for number, (a, b) in enumerate(zip(first, again, strict=True)):
        assert torch.equal(a, b)
        assert len(a.unique()) > 1, number
    assert not torch.equal(first[0], first[1])  # each call has a layer number of its own
    assert torch.equal(first[1], drop_rows(rows, keys, 0.5, 6))


def test_dropout_in_eval_mode_or_with_rate_zero_does_nothing() -> None:
    model, rows = Calls().eval(), torch.randn(6, 64)
    plain = model(rows)
    with KeyedDropout(keys_of(torch.arange(6)), first_layer=0):
        keyed = model(rows)
        assert torch.equal(functional.dropout(rows, 0.0), rows)
    assert all(torch.equal(a, b) for a, b in zip(keyed, plain, strict=True))


@pytest.mark.parametrize("kind", ["none", "bool", "float"])
def test_attention_equals_torchs_if_nothing_is_dropped(kind: str) -> None:
    """A rate below 1/65,536 drops nothing, so the result must equal torch's own attention."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, 5, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    allowed = torch.tensor([True, True, True, False, True]).expand(2, 1, 5, 5)
    mask = {"none": None, "bool": allowed, "float": torch.where(allowed, 0.0, -1e9).double()}[kind]
    expected = functional.scaled_dot_product_attention(query, key, value, mask)
    with KeyedDropout(keys_of(torch.arange(2)), first_layer=0):
        keyed = functional.scaled_dot_product_attention(query, key, value, mask, dropout_p=1e-6)
    torch.testing.assert_close(keyed, expected, rtol=1e-12, atol=1e-12)


def test_outside_the_context_dropout_is_torchs_own() -> None:
    ones = torch.ones(100, WIDTH)
    with KeyedDropout(keys_of(torch.arange(100)), first_layer=0):
        nn.Dropout(0.5)(ones)
    torch.manual_seed(7)
    dropped = nn.Dropout(0.5)(ones)
    torch.manual_seed(7)
    assert torch.equal(dropped, functional.dropout(ones, 0.5))
