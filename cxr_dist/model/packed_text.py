"""A BERT over a batch of reports without its padding: tokens in one row, and attention report by report.

What a layer does to each token by itself (projections, feed-forward, LayerNorm, dropout) runs on the packed row
[1, N, D]; only attention, at most 3% of BERT-base's operations at 128 tokens, sees [b, T]. transformers lets a
model's attention be replaced, so the layers stay its own, with their names, hooks and gradient checkpointing.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

PACKED_ATTENTION = "sdpa_packed"
"""Name of this attention in transformers; without a packing it is `sdpa`."""
_USUAL = "sdpa"


@dataclass(frozen=True, kw_only=True)
class Packing:
    """Where the tokens of a packed row stand in their batch."""

    positions: Tensor
    """int64 [N], ascending, each once: places in the flattened batch [b · T]. All real tokens are among them."""
    reports: int
    """b."""
    width: int
    """T."""

    def pack(self, padded: Tensor) -> Tensor:
        """[b, T, ...] to [N, ...]."""
        return padded.flatten(0, 1).index_select(0, self.positions)

    def spread(self, packed: Tensor) -> Tensor:
        """[N, ...] to [b, T, ...], zeros elsewhere."""
        places = packed.new_zeros(self.reports * self.width, *packed.shape[1:])
        return places.index_copy(0, self.positions, packed).view(self.reports, self.width, *packed.shape[1:])


def first_position(config: Any) -> int | None:
    """Number that a model gives to a report's first token; None for a kind of model that is not run packed."""
    if getattr(config, "is_decoder", False):
        return None
    if config.model_type == "roberta":
        return int(config.pad_token_id) + 1
    return 0 if config.model_type in ("bert", "electra") else None


def packed_vectors(
    encoder: nn.Module, tokens: Tensor, attention_mask: Tensor, positions: Tensor, first: int
) -> Tensor:
    """Token ids int64 [b, T], mask bool [b, 1, T, T] and `positions` int64 [N] to vectors [b, T, D].

    `first` is the model's `first_position`. The vectors are those of the padded batch, but for their last bits,
    and zeros where `positions` has no token.
    """
    packing = Packing(positions=positions, reports=tokens.shape[0], width=tokens.shape[1])
    vectors: Tensor = encoder(
        input_ids=packing.pack(tokens)[None],
        position_ids=(positions % packing.width + first)[None],
        attention_mask=attention_mask,
        packing=packing,
    ).last_hidden_state
    return packing.spread(vectors[0])


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    packing: Packing | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention of a packed row, heads [1, h, N, d] to [1, N, h, d], inside each report; the usual one without."""
    usual = AttentionInterface()[_USUAL]
    if packing is None:
        attended, _ = usual(module, query, key, value, attention_mask, **options)
        return attended, None
    query, key, value = (
        packing.spread(heads[0].transpose(0, 1)).transpose(1, 2) for heads in (query, key, value)
    )
    attended, _ = usual(module, query, key, value, attention_mask, **options)
    return packing.pack(attended)[None], None


AttentionInterface.register(PACKED_ATTENTION, _attention)
AttentionMaskInterface.register(PACKED_ATTENTION, AttentionMaskInterface()[_USUAL])
