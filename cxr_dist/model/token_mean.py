"""The mean of a report's token vectors without padding.

This is separate from text_encoder.py, so that image-only runs do not import transformers.
"""

import torch
from torch import Tensor


def masked_mean(tokens: Tensor, attention_mask: Tensor) -> Tensor:
    """Mean over the real tokens: [b, T, D] and mask [b, T] to [b, D]; zero for a row without tokens.

    Half-precision tokens are averaged in float32, because bfloat16 cannot represent all integers above 256.
    """
    wide = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
    mask = attention_mask.to(wide.dtype).unsqueeze(-1)
    return (wide * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


def mean_shares(attention_mask: Tensor) -> Tensor:
    """The weights of `masked_mean`, float32 [b, T]: equal over a row's real tokens, 0 elsewhere."""
    return attention_mask / attention_mask.sum(dim=1, keepdim=True).clamp(min=1)
