"""What the loader hands to the model: one micro-batch of uint8 films, token ids and labels."""

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch


class Replaced(NamedTuple):
    """A damaged sample that was drawn, and what stands in for it; numbers only, so that it crosses ranks."""

    draw: int
    """Number of the draw in the epoch."""
    shard: int
    """Number of the shard in its split."""
    sample: int
    """The damaged sample in that shard."""
    replacement: int
    """The sample of the same shard that was read instead."""
    reason: int
    """Place in `stored_sample.REASONS`."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One micro-batch of `b` samples, on the host or the device."""

    images: torch.Tensor | None
    """uint8 [n, 1, H, W], grey, of the samples in order, n = b where each has one film; None in text mode."""
    view_rows: torch.Tensor | None = None
    """int64 [b, V], the rows of `images` that are a sample's films, -1 where it has fewer (views.py); None where each
    sample has one."""
    tokens: torch.Tensor | None
    """int64 [b, T], WordPiece ids, padded to the batch's longest (a multiple of 16); None in image mode."""
    attention_mask: torch.Tensor | None
    """int64 [b, T], 1 for a token, 0 for padding."""
    token_positions: torch.Tensor | None = None
    """int64 [N], the places in b · T that the text encoder computes (`packed_positions`); None: all."""
    labels: torch.Tensor
    """int64 [b, L]: the class (L = 1), or for multilabel 1, 0 or -1 (unknown) per class."""
    groups: torch.Tensor
    """int64 [b], sampling group of each sample."""
    sample_ids: torch.Tensor
    """int64 [b]: number of the draw in the epoch (training) or of the sample in the split (evaluation)."""
    replaced: tuple[Replaced, ...] = ()
    """Damaged samples of this batch; never any in evaluation."""

    def __len__(self) -> int:
        return len(self.sample_ids)

    def _each(self, change: str, *arguments: object, **options: object) -> "Batch":
        changed = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, value in changed.items():
            if isinstance(value, torch.Tensor):
                changed[name] = getattr(value, change)(*arguments, **options)
        return Batch(**changed)

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device; asynchronous from pinned memory."""
        return self._each("to", device, non_blocking=True)

    def pin_memory(self) -> "Batch":
        """The batch in page-locked memory (the DataLoader calls this)."""
        return self._each("pin_memory")
