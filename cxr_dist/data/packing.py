"""Which tokens of a padded batch the text encoder computes: the mask in, places in the flattened batch out.

The loader finds them on the host, where the mask is. On the device nobody would know how many there are without
waiting for it.
"""

import torch
from torch import Tensor

_SHARE_BITS = 4  # rounding adds at most 1 / 2^4, or makes multiples of 2^4


def round_up_tokens(tokens: int) -> int:
    """A number of tokens rounded up by at most a sixteenth, or to 16: at most 16 different results a doubling.

    Few results keep few compiled kernels, and multiples of 16 suit tensor cores.
    """
    step = 1 << max(_SHARE_BITS, tokens.bit_length() - 1 - _SHARE_BITS)
    return -(-tokens // step) * step


def packed_positions(attention_mask: Tensor) -> Tensor:
    """Places int64 [N], ascending, of the real tokens of a batch [b, T] in its b · T.

    The first padding of the batch fills them up to a rounded number. Attention is masked, so that to compute some
    padding changes no token.
    """
    real = attention_mask.flatten().bool()
    wanted = min(round_up_tokens(max(1, int(real.sum()))), len(real))
    return (~real).to(torch.uint8).argsort(stable=True)[:wanted].sort().values
