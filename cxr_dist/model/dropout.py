"""Dropout whose Monte-Carlo masks depend only on (seed, layer, pass, sample, element).

The network has ordinary dropout, also inside libraries and attention. Under `KeyedDropout` every mask is a hash that
torch computes on the device, so that a sample's uncertainty does not depend on batch, padding, order or device.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

# SplitMix64's finaliser (Steele, Lea and Flood 2014), as in cxr_dist.data.random. torch's int64 overflows silently.
_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_FIRST = 0xBF58476D1CE4E5B9 - 2**64
_SECOND = 0x94D049BB133111EB - 2**64
_PER_WORD = 4  # one 64-bit word decides four elements with 16 bits each
_VALUES = 65_536  # number of values of 16 bits


def _shift_right(words: Tensor, bits: int) -> Tensor:
    # torch shifts int64 arithmetically, so the copies of the sign bit are cleared.
    return (words >> bits) & ((1 << (64 - bits)) - 1)


def hash_tensors(*words: Tensor | int) -> Tensor:
    """`cxr_dist.data.random.hash64` for int64 tensors that broadcast: 64 uniform bits, as int64."""
    mixed = torch.zeros((), dtype=torch.int64)
    for word in words:
        mixed = (mixed + word) + _GAMMA
        mixed = (mixed ^ _shift_right(mixed, 30)) * _FIRST
        mixed = (mixed ^ _shift_right(mixed, 27)) * _SECOND
        mixed = mixed ^ _shift_right(mixed, 31)
    return mixed


@dataclass(frozen=True, kw_only=True)
class DropoutKeys:
    """The sample and the number of the Monte-Carlo pass of each of `n` rows."""

    seed: int
    """The run's seed."""
    sample_ids: Tensor
    """int64 [n], indices of the samples in the split."""
    passes: Tensor
    """int64 [n], numbers of the passes."""

    @classmethod
    def grid(cls, *, seed: int, sample_ids: Tensor, passes: range) -> "DropoutKeys":
        """The keys of len(passes) × b rows, ordered by pass, for sample ids [b]."""
        numbers = torch.tensor(list(passes), dtype=torch.int64, device=sample_ids.device)
        return cls(
            seed=seed,
            sample_ids=sample_ids.repeat(len(passes)),
            passes=numbers.repeat_interleave(len(sample_ids)),
        )

    def select(self, rows: Tensor) -> "DropoutKeys":
        """The keys of the given rows, int64 [m], in that order."""
        return DropoutKeys(seed=self.seed, sample_ids=self.sample_ids[rows], passes=self.passes[rows])


class KeyedDropout(TorchFunctionMode):
    """A context in which the dropout masks of rows [n, ...] are computed from `keys`, which has an entry for each row.

    It covers `nn.Dropout`, `functional.dropout` and the dropout inside `scaled_dot_product_attention`, if they are in
    training mode. Calls are numbered from `first_layer` on in the order in which they occur.
    """

    def __init__(self, keys: DropoutKeys, *, first_layer: int) -> None:
        super().__init__()
        self.keys, self.layer = keys, first_layer

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """torch calls this instead of each of its functions."""
        kwargs = kwargs or {}
        if func is functional.dropout:
            return self._dropout(*args, **kwargs)
        if func is functional.scaled_dot_product_attention and _rate_of(*args, **kwargs) > 0:
            return self._attention(*args, **kwargs)
        return func(*args, **kwargs)

    def _dropout(self, rows: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or p == 0:
            return rows
        dropped = drop_rows(rows, self.keys, p, self.layer)
        self.layer += 1
        return dropped

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        *_: Any,
        scale: float | None = None,
        **options: Any,
    ) -> Tensor:
        """The formula of torch's documentation. A fused kernel does not accept a dropout mask."""
        assert not any(options.values()), f"attention with {options} is not supported"
        scores = query @ key.transpose(-2, -1) * (scale or 1 / math.sqrt(query.shape[-1]))
        if attn_mask is not None:
            masked = attn_mask.dtype == torch.bool
            scores = scores.masked_fill(~attn_mask, -math.inf) if masked else scores + attn_mask
        return self._dropout(scores.softmax(-1), dropout_p) @ value


def _rate_of(*args: Any, dropout_p: float = 0.0, **_: Any) -> float:
    """`dropout_p` of a call of scaled_dot_product_attention, which is the fifth positional argument."""
    return float(args[4]) if len(args) > 4 else dropout_p


def drop_rows(rows: Tensor, keys: DropoutKeys, rate: float, layer: int) -> Tensor:
    """Drop elements of rows [n, ...] with probability `rate`, and scale the others by 1 / (1 - rate)."""
    kept = kept_elements(keys, rows.shape[1:], rate, layer)
    return torch.where(kept, rows, rows.new_zeros(())).mul_(1 / (1 - _threshold(rate) / _VALUES))


def _threshold(rate: float) -> int:
    """Number of the 65,536 values of an element's 16 bits for which the element is dropped."""
    return round(rate * _VALUES)


def kept_elements(keys: DropoutKeys, shape: Sequence[int], rate: float, layer: int) -> Tensor:
    """The mask, bool [n, *shape], True with probability 1 - rate. Integer arithmetic makes it exact on every device.

    The hash uses the coordinates of an element and not its flat index, so that padding an axis changes no mask.
    """
    device, axes = keys.sample_ids.device, len(shape) + 1
    words: list[Tensor | int] = [keys.seed, layer]
    words += [word.view(-1, *[1] * len(shape)) for word in (keys.passes, keys.sample_ids)]
    for axis, size in enumerate(shape, start=1):
        count = -(-size // _PER_WORD) if axis == len(shape) else size
        words.append(torch.arange(count, device=device).view(-1, *[1] * (axes - axis - 1)))
    # Each word is viewed as four signed 16-bit integers, which start at -2^15.
    pieces = hash_tensors(*words).view(torch.int16)[..., : shape[-1]]
    return torch.ge(pieces, _threshold(rate) - _VALUES // 2)
