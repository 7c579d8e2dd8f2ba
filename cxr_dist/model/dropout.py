"""Dropout whose Monte-Carlo masks belong to (seed, layer, pass, sample, element) and to nothing else.

While training it is ordinary dropout. Given keys, an element's mask is a hash of five integers, computed with
torch on the device, so that a sample's uncertainty does not depend on the batch, order or device that it meets.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

# SplitMix64's finaliser (Steele, Lea and Flood 2014), as in cxr_dist.data.random; torch wraps int64 around.
_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_FIRST = 0xBF58476D1CE4E5B9 - 2**64
_SECOND = 0x94D049BB133111EB - 2**64
_UNIFORM_BITS = 53


def _shift_right(words: Tensor, bits: int) -> Tensor:
    # torch shifts int64 arithmetically; the mask clears the copies of the sign bit.
    return (words >> bits) & ((1 << (64 - bits)) - 1)


def hash64(*words: Tensor | int) -> Tensor:
    """Mix int64 tensors that broadcast into 64 uniform bits (as int64); the order of words counts.

    The bits are those of `cxr_dist.data.random.hash64`.
    """
    mixed = torch.zeros((), dtype=torch.int64)
    for word in words:
        mixed = (mixed + word) + _GAMMA
        mixed = (mixed ^ _shift_right(mixed, 30)) * _FIRST
        mixed = (mixed ^ _shift_right(mixed, 27)) * _SECOND
        mixed = mixed ^ _shift_right(mixed, 31)
    return mixed


@dataclass(frozen=True, kw_only=True)
class DropoutKeys:
    """Which Monte-Carlo pass of which sample each of `n` rows is."""

    seed: int
    """The run's seed."""
    sample_ids: Tensor
    """int64 [n], the sample's index in the split."""
    passes: Tensor
    """int64 [n], the number of the pass."""

    @classmethod
    def grid(cls, *, seed: int, sample_ids: Tensor, passes: range) -> "DropoutKeys":
        """Keys of len(passes) × b rows, pass by pass, for sample ids [b]."""
        numbers = torch.tensor(list(passes), dtype=torch.int64, device=sample_ids.device)
        return cls(
            seed=seed,
            sample_ids=sample_ids.repeat(len(passes)),
            passes=numbers.repeat_interleave(len(sample_ids)),
        )


class KeyedDropout(nn.Module):
    """Dropout of rows [n, ...] with probability `rate`; survivors are scaled by 1 / (1 - rate).

    Without keys it follows train and eval mode as `nn.Dropout` does. With keys it drops in either mode, by
    the hash of (seed, layer, pass, sample, element): `layer` tells this module from the model's others.
    """

    def __init__(self, rate: float, *, layer: int) -> None:
        super().__init__()
        self.rate, self.layer = rate, layer

    def forward(self, rows: Tensor, keys: DropoutKeys | None = None) -> Tensor:
        """Rows of the same shape and type; int64 keys are per row."""
        if keys is None or self.rate == 0:
            return functional.dropout(rows, self.rate, self.training and keys is None)
        kept = self.kept(keys, rows[0].numel()).view(rows.shape)
        return rows * kept.to(rows.dtype) / (1 - self.rate)

    def kept(self, keys: DropoutKeys, width: int) -> Tensor:
        """The mask, bool [n, width]: True with probability 1 - rate. Integers only, so exact everywhere."""
        elements = torch.arange(width, dtype=torch.int64, device=keys.sample_ids.device)
        bits = hash64(keys.seed, self.layer, keys.passes[:, None], keys.sample_ids[:, None], elements)
        return torch.ge(_shift_right(bits, 64 - _UNIFORM_BITS), round(self.rate * 2**_UNIFORM_BITS))

    def extra_repr(self) -> str:
        """Shown when the model is printed."""
        return f"rate={self.rate}, layer={self.layer}"
