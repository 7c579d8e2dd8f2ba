"""Run a BERT on a batch of reports without padding: all tokens are in one row, and attention stays in each report.

The operations on single tokens (projections, feed-forward, LayerNorm, dropout) run on the packed row [1, N, D]. Only
attention, a small part of all operations, runs on [b, T]. The model's layers are not changed, because transformers
allows the attention function of a model to be replaced.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PretrainedConfig

PACKED_ATTENTION = "sdpa_packed"
"""The name of this attention function in transformers. Without a packing it is the same as `sdpa`."""
_USUAL = "sdpa"


@dataclass(frozen=True, kw_only=True)
class Packing:
    """The positions of the tokens of a packed row in their batch."""

    positions: Tensor
    """int64 [N], ascending and unique positions in the flattened batch [b · T], including those of all real tokens."""
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


def first_position(config: PretrainedConfig) -> int | None:
    """The position id of a report's first token, or None for a kind of model that is not run on packed tokens."""
    if getattr(config, "is_decoder", False):
        return None
    if config.model_type == "roberta":
        return int(config.pad_token_id) + 1
    return 0 if config.model_type in ("bert", "electra") else None


def packed_vectors(encoder: nn.Module, tokens: Tensor, attention_mask: Tensor, positions: Tensor, first: int) -> Tensor:
    """Token ids int64 [b, T], mask bool [b, 1, T, T] and `positions` int64 [N] to vectors [b, T, D].

    `first` is the model's `first_position`. The vectors are those of the padded batch up to rounding, and zero at
    positions that are not computed.
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
    """Attention inside each report of a packed row, heads [1, h, N, d] to [1, N, h, d]; `sdpa` without a packing."""
    if packing is not None:
        query, key, value = (packing.spread(heads[0].transpose(0, 1)).transpose(1, 2) for heads in (query, key, value))
    attended, _ = AttentionInterface()[_USUAL](module, query, key, value, attention_mask, **options)
    return attended if packing is None else packing.pack(attended)[None], None


AttentionInterface.register(PACKED_ATTENTION, _attention)
AttentionMaskInterface.register(PACKED_ATTENTION, AttentionMaskInterface()[_USUAL])
