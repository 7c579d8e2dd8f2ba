"""Packed reports give the same vectors and gradients as padded reports with fewer operations."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.text import LIMIT, needed_operations, operations, padding_shares
from cxr_dist.data.packing import packed_positions, round_up_tokens
from cxr_dist.model.classifier import Classifier
from cxr_dist.model.inputs import Inputs
from cxr_dist.model.packed_text import Packing
from cxr_dist.model.text_encoder import TextEncoder

LENGTHS = st.lists(st.integers(0, 40), min_size=1, max_size=6)
SIZES = {
    "bert": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
}


def mask_of(lengths: list[int], width: int | None = None) -> Tensor:
    """The mask of right-padded reports, int64 [b, T]."""
    return (torch.arange(width or max(16, *lengths)) < torch.tensor(lengths)[:, None]).long()


def tokens_for(mask: Tensor, padding: int = 0) -> Tensor:
    tokens = torch.randint(5, 60, mask.shape, generator=torch.Generator().manual_seed(0))
    return torch.where(mask.bool(), tokens, padding)


@pytest.fixture
def encoder_of(tmp_path: Path) -> Callable[..., TextEncoder]:
    """`encoder_of("roberta")`: an encoder with two layers and random weights in eval mode."""

    def make(kind: str = "bert", *, gradient_checkpointing: bool = False) -> TextEncoder:
        config = {"model_type": kind, "vocab_size": 60, "pad_token_id": 0, "max_position_embeddings": 64}
        (tmp_path / "config.json").write_text(json.dumps(config | SIZES.get(kind, SIZES["bert"])))
        torch.manual_seed(0)
        return TextEncoder(tmp_path, gradient_checkpointing=gradient_checkpointing).eval()

    return make


@given(st.integers(0, 100_000))
def test_rounding_adds_at_most_a_sixteenth_or_rounds_up_to_sixteen(tokens: int) -> None:
    rounded = round_up_tokens(tokens)
    assert rounded % 16 == 0
    assert 0 <= rounded - tokens < max(16, tokens / 16 + 1)


def test_rounding_gives_few_different_numbers() -> None:
    assert len({round_up_tokens(tokens) for tokens in range(1025, 2049)}) == 16


@given(LENGTHS, st.integers(40, 48))
def test_positions_include_all_real_tokens_and_some_padding(lengths: list[int], width: int) -> None:
    mask = mask_of(lengths, width)
    positions = packed_positions(mask)
    assert positions.tolist() == sorted(set(positions.tolist()))
    assert set(mask.flatten().nonzero()[:, 0].tolist()) <= set(positions.tolist())
    assert len(positions) == min(round_up_tokens(max(1, int(mask.sum()))), mask.numel())


@given(LENGTHS)
def test_spreading_and_packing_are_inverse(lengths: list[int]) -> None:
    mask = mask_of(lengths)
    packing = Packing(positions=packed_positions(mask), reports=len(mask), width=mask.shape[1])
    padded = torch.randn(*mask.shape, 3)
    packed = packing.pack(padded)
    torch.testing.assert_close(packing.pack(packing.spread(packed)), packed, rtol=0, atol=0)
    real = mask[..., None].bool()
    kept = torch.where(real, packing.spread(packed), 0)
    torch.testing.assert_close(kept, torch.where(real, padded, 0), rtol=0, atol=0)


def vectors_and_gradients(encoder: TextEncoder, mask: Tensor, positions: Tensor | None) -> list[Tensor]:
    """The vectors of the real tokens, and the gradients of a weighted sum over them."""
    padding = encoder.encoder.config.pad_token_id  # type: ignore[union-attr]
    vectors = encoder(tokens_for(mask, padding), mask, positions) * mask[..., None]
    weights = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(1), dtype=vectors.dtype)
    return [vectors.detach(), *torch.autograd.grad((vectors * weights).sum(), list(encoder.parameters()))]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("kind", ["bert", "electra", "roberta", "distilbert"])
@pytest.mark.parametrize("lengths", [[48, 3, 20, 31], [17], [16, 16, 16], [30, 0, 5]])
def test_packed_vectors_and_gradients_equal_padded_ones(
    kind: str,
    lengths: list[int],
    dtype: torch.dtype,
    tolerance: float,
    encoder_of: Callable[..., TextEncoder],
) -> None:
    encoder, mask = encoder_of(kind).to(dtype), mask_of(lengths, 48)
    padded = vectors_and_gradients(encoder, mask, None)
    packed = vectors_and_gradients(encoder, mask, packed_positions(mask))
    assert padded[0].any()
    for value, expected in zip(packed, padded, strict=True):
        largest = float(expected.abs().max().clamp(min=1))  # gradients sum over many tokens
        torch.testing.assert_close(value, expected, rtol=0, atol=tolerance * largest)


def counted(encoder: TextEncoder, mask: Tensor, positions: Tensor | None) -> dict[str, int]:
    """torch's count of the floating-point operations of a forward pass by kind."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder(tokens_for(mask, 1), mask, positions)
    return {str(kind): count for kind, count in counter.get_flop_counts()["Global"].items()}


@pytest.mark.parametrize("kind", ["bert", "electra", "roberta"])
def test_layers_compute_only_the_packed_tokens(kind: str, encoder_of: Callable[..., TextEncoder]) -> None:
    encoder, mask = encoder_of(kind), mask_of([48, 3, 20, 31])
    positions = packed_positions(mask)
    padded, packed = counted(encoder, mask, None), counted(encoder, mask, positions)
    assert packed["aten.addmm"] / padded["aten.addmm"] == len(positions) / mask.numel()
    assert {k: n for k, n in packed.items() if "addmm" not in k} == {
        k: n for k, n in padded.items() if "addmm" not in k
    }


def test_shares_of_padding_follow_the_formula() -> None:
    width, hidden, inner, length = LIMIT, 768, 3072, 64
    per_token, per_pair = 2 * (4 * hidden**2 + 2 * hidden * inner), 4 * hidden
    assert operations(8, width, 512) == 512 * per_token + 8 * width**2 * per_pair
    assert needed_operations(np.array([width, length])) == sum(n * per_token + n**2 * per_pair for n in (width, length))
    shares = padding_shares(np.full(20, length), 8)
    whole = width * per_token + width**2 * per_pair
    expected = 1 - (length * per_token + length**2 * per_pair) / whole
    assert list(shares.values()) == pytest.approx([expected, 0, 0])


def test_other_kinds_of_model_compute_all_tokens(encoder_of: Callable[..., TextEncoder]) -> None:
    encoder, mask = encoder_of("distilbert"), mask_of([48, 3])
    assert counted(encoder, mask, packed_positions(mask)) == counted(encoder, mask, None)


def test_sdpa_equals_the_eager_formula(encoder_of: Callable[..., TextEncoder]) -> None:
    encoder, mask = encoder_of(), mask_of([48, 3, 20])
    sdpa = vectors_and_gradients(encoder, mask, packed_positions(mask))
    encoder.encoder.set_attn_implementation("eager")  # type: ignore[operator]
    eager = vectors_and_gradients(encoder, mask, None)
    for value, expected in zip(sdpa, eager, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)


def test_a_mask_with_two_axes_gives_the_same_vectors(encoder_of: Callable[..., TextEncoder]) -> None:
    encoder, mask = encoder_of(), mask_of([48, 3, 20])
    tokens, real = tokens_for(mask), mask[..., None]
    with torch.no_grad():
        by_transformers = encoder.encoder(input_ids=tokens, attention_mask=mask).last_hidden_state
        torch.testing.assert_close(by_transformers * real, encoder(tokens, mask) * real)


def test_dropout_in_packed_training_depends_only_on_the_seed(encoder_of: Callable[..., TextEncoder]) -> None:
    mask = mask_of([48, 3, 20])
    results = []
    for seed, checkpointing in ((1, False), (1, True), (2, False)):
        encoder = encoder_of(gradient_checkpointing=checkpointing).train()
        torch.manual_seed(seed)
        results.append(vectors_and_gradients(encoder, mask, packed_positions(mask)))
    same = [[torch.equal(a, b) for a, b in zip(results[0], other, strict=True)] for other in results[1:]]
    assert all(same[0])
    assert not same[1][0]


def test_a_classifier_gives_equal_logits_for_packed_and_padded_reports(
    build: Callable[..., Classifier], make_batch: Callable[..., object]
) -> None:
    images, tokens, mask = make_batch(6, 40)  # type: ignore[misc]
    for fusion in ("tokens", "pooled"):
        model = build(fusion=fusion).eval()
        packed = model(images, tokens, mask, packed_positions(mask))
        torch.testing.assert_close(packed, model(images, tokens, mask), rtol=0, atol=1e-6)


def test_frozen_encoders_build_no_graph(build: Callable[..., Classifier], make_batch: Callable[..., object]) -> None:
    images, tokens, mask = make_batch(6, 40)  # type: ignore[misc]
    model = build().train()
    kept: dict[bool, int] = {}
    for frozen in (False, True):
        model.set_encoders_frozen(frozen)
        count = [0]

        def keep(tensor: Tensor, count: list[int] = count) -> Tensor:
            count[0] += 1
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            features = model.encode(Inputs(images, tokens, mask, packed_positions(mask)))
        assert features.text_tokens is not None
        assert features.image_tokens is not None
        assert (features.text_tokens.grad_fn is None) == (features.image_tokens.grad_fn is None) == frozen
        kept[frozen] = count[0]
    assert kept[False] > 100
    assert kept[True] == 0
    model.classify(features).sum().backward()
    assert model.head.first.weight.grad is not None
    assert [name for name, p in model.named_parameters() if "encoder" in name and p.grad is not None] == []
