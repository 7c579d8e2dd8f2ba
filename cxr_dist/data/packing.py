"""Choose which tokens of a padded batch the text encoder computes.

The loader does this on the host, because on the device the host would have to wait for the number of tokens.
"""

import torch
from torch import Tensor

_SHARE_BITS = 4  # rounding adds at most 1 / 2^4, or gives a multiple of 2^4


def round_up_tokens(tokens: int) -> int:
    """Round a number of tokens up by at most a sixteenth, or to 16.

    There are at most 16 results between a number and its double, which limits the number of compiled kernels, and
    multiples of 16 suit tensor cores.
    """
    step = 1 << max(_SHARE_BITS, tokens.bit_length() - 1 - _SHARE_BITS)
    return -(-tokens // step) * step


def packed_positions(attention_mask: Tensor) -> Tensor:
    """Positions int64 [N], ascending, of the real tokens of a batch [b, T] in the flattened batch.

    The first padding tokens are added to reach a rounded number. They change no other token, because attention is
    masked.
    """
    real = attention_mask.flatten().bool()
    wanted = min(round_up_tokens(max(1, int(real.sum()))), len(real))
    return (~real).to(torch.uint8).argsort(stable=True)[:wanted].sort().values
