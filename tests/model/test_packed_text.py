"""Reports without their padding: the same vectors and gradients as padded ones, for fewer operations."""

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
    """Right-padded reports, int64 [b, T]."""
    return (torch.arange(width or max(16, *lengths)) < torch.tensor(lengths)[:, None]).long()


def tokens_for(mask: Tensor, padding: int = 0) -> Tensor:
    made = torch.randint(5, 60, mask.shape, generator=torch.Generator().manual_seed(0))
    return torch.where(mask.bool(), made, padding)


@pytest.fixture
def encoder_of(tmp_path: Path) -> Callable[..., TextEncoder]:
    """`encoder_of("roberta")`: two layers, random weights, in eval mode."""

    def make(kind: str = "bert", *, gradient_checkpointing: bool = False) -> TextEncoder:
        config = {"model_type": kind, "vocab_size": 60, "pad_token_id": 0, "max_position_embeddings": 64}
        (tmp_path / "config.json").write_text(json.dumps(config | SIZES.get(kind, SIZES["bert"])))
        torch.manual_seed(0)
        return TextEncoder(tmp_path, gradient_checkpointing=gradient_checkpointing).eval()

    return make


@given(st.integers(0, 100_000))
def test_rounding_adds_at_most_a_sixteenth_or_fills_up_sixteen(tokens: int) -> None:
    rounded = round_up_tokens(tokens)
    assert rounded % 16 == 0
    assert 0 <= rounded - tokens < max(16, tokens / 16 + 1)


def test_rounding_leaves_few_numbers() -> None:
    assert len({round_up_tokens(tokens) for tokens in range(1025, 2049)}) == 16


@given(LENGTHS, st.integers(40, 48))
def test_positions_are_all_real_tokens_and_some_padding(lengths: list[int], width: int) -> None:
    mask = mask_of(lengths, width)
    positions = packed_positions(mask)
    assert positions.tolist() == sorted(set(positions.tolist()))
    assert set(mask.flatten().nonzero()[:, 0].tolist()) <= set(positions.tolist())
    assert len(positions) == min(round_up_tokens(max(1, int(mask.sum()))), mask.numel())


@given(LENGTHS)
def test_spreading_and_packing_undo_each_other(lengths: list[int]) -> None:
    mask = mask_of(lengths)
    packing = Packing(positions=packed_positions(mask), reports=len(mask), width=mask.shape[1])
    padded = torch.randn(*mask.shape, 3)
    packed = packing.pack(padded)
    torch.testing.assert_close(packing.pack(packing.spread(packed)), packed, rtol=0, atol=0)
    real = mask[..., None].bool()
    kept = torch.where(real, packing.spread(packed), 0)
    torch.testing.assert_close(kept, torch.where(real, padded, 0), rtol=0, atol=0)


def vectors_and_gradients(encoder: TextEncoder, mask: Tensor, positions: Tensor | None) -> list[Tensor]:
    """The real tokens' vectors, and the gradients of a sum over them that differs from token to token."""
    padding = encoder.encoder.config.pad_token_id  # type: ignore[union-attr]
    vectors = encoder(tokens_for(mask, padding), mask, positions) * mask[..., None]
    weights = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(1), dtype=vectors.dtype)
    return [vectors.detach(), *torch.autograd.grad((vectors * weights).sum(), list(encoder.parameters()))]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("kind", ["bert", "electra", "roberta", "distilbert"])
@pytest.mark.parametrize("lengths", [[48, 3, 20, 31], [17], [16, 16, 16], [30, 0, 5]])
def test_packed_is_padded(
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
    for found, expected in zip(packed, padded, strict=True):
        largest = float(expected.abs().max().clamp(min=1))  # of a gradient over many tokens
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * largest)


def counted(encoder: TextEncoder, mask: Tensor, positions: Tensor | None) -> dict[str, int]:
    """Floating-point operations of a forward pass, as torch counts them, by kind."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder(tokens_for(mask, 1), mask, positions)
    return {str(kind): count for kind, count in counter.get_flop_counts()["Global"].items()}


@pytest.mark.parametrize("kind", ["bert", "electra", "roberta"])
def test_layers_compute_the_packed_tokens_alone(kind: str, encoder_of: Callable[..., TextEncoder]) -> None:
    encoder, mask = encoder_of(kind), mask_of([48, 3, 20, 31])
    positions = packed_positions(mask)
    padded, packed = counted(encoder, mask, None), counted(encoder, mask, positions)
    assert packed["aten.addmm"] / padded["aten.addmm"] == len(positions) / mask.numel()
    assert {k: n for k, n in packed.items() if "addmm" not in k} == {
        k: n for k, n in padded.items() if "addmm" not in k
    }


def test_shares_on_padding_are_those_of_the_formula() -> None:
    width, hidden, inner, length = LIMIT, 768, 3072, 64
    per_token, per_pair = 2 * (4 * hidden**2 + 2 * hidden * inner), 4 * hidden
    assert operations(8, width, 512) == 512 * per_token + 8 * width**2 * per_pair
    assert needed_operations(np.array([width, length])) == sum(
        n * per_token + n**2 * per_pair for n in (width, length)
    )
    shares = padding_shares(np.full(20, length), 8)
    whole = width * per_token + width**2 * per_pair
    expected = 1 - (length * per_token + length**2 * per_pair) / whole
    assert list(shares.values()) == pytest.approx([expected, 0, 0])


def test_other_kinds_of_model_compute_all(encoder_of: Callable[..., TextEncoder]) -> None:
    encoder, mask = encoder_of("distilbert"), mask_of([48, 3])
    assert counted(encoder, mask, packed_positions(mask)) == counted(encoder, mask, None)


def test_sdpa_is_the_eager_formula(encoder_of: Callable[..., TextEncoder]) -> None:
    encoder, mask = encoder_of(), mask_of([48, 3, 20])
    found = [vectors_and_gradients(encoder, mask, packed_positions(mask))]
    encoder.encoder.set_attn_implementation("eager")  # type: ignore[operator]
    found.append(vectors_and_gradients(encoder, mask, None))
    for ours, eager in zip(*found, strict=True):
        torch.testing.assert_close(ours, eager, rtol=1e-5, atol=1e-5)


def test_a_mask_of_two_axes_is_no_less_masked(encoder_of: Callable[..., TextEncoder]) -> None:
    encoder, mask = encoder_of(), mask_of([48, 3, 20])
    tokens, real = tokens_for(mask), mask[..., None]
    with torch.no_grad():
        by_transformers = encoder.encoder(input_ids=tokens, attention_mask=mask).last_hidden_state
        torch.testing.assert_close(by_transformers * real, encoder(tokens, mask) * real)


def test_dropout_in_packed_training_follows_the_seed_alone(encoder_of: Callable[..., TextEncoder]) -> None:
    mask = mask_of([48, 3, 20])
    found = []
    for seed, checkpointing in ((1, False), (1, True), (2, False)):
        encoder = encoder_of(gradient_checkpointing=checkpointing).train()
        torch.manual_seed(seed)
        found.append(vectors_and_gradients(encoder, mask, packed_positions(mask)))
    same = [[torch.equal(a, b) for a, b in zip(found[0], other, strict=True)] for other in found[1:]]
    assert all(same[0])
    assert not same[1][0]


def test_a_classifier_answers_alike(
    build: Callable[..., Classifier], make_batch: Callable[..., object]
) -> None:
    images, tokens, mask = make_batch(6, 40)  # type: ignore[misc]
    for fusion in ("tokens", "pooled"):
        model = build(fusion=fusion).eval()
        packed = model(images, tokens, mask, packed_positions(mask))
        torch.testing.assert_close(packed, model(images, tokens, mask), rtol=0, atol=1e-6)


def test_frozen_encoders_build_no_graph(
    build: Callable[..., Classifier], make_batch: Callable[..., object]
) -> None:
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
