"""The micro-batch that the loader passes to the model: uint8 images, token ids and labels."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch


class Replaced(NamedTuple):
    """A damaged sample that was drawn, and its replacement. All fields are numbers that ranks can exchange."""

    draw: int
    """Number of the draw in the epoch."""
    shard: int
    """Number of the shard in its split."""
    sample: int
    """Number of the damaged sample in the shard."""
    replacement: int
    """Number of the sample in the same shard that was read instead."""
    reason: int
    """Index of the reason in `stored_sample.REASONS`."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One micro-batch of `b` samples, on the host or the device."""

    images: torch.Tensor | None
    """uint8 [n, 1, H, W], grey, sample by sample; n = b if each sample has one image. None in text mode."""
    view_rows: torch.Tensor | None = None
    """int64 [b, V], the rows of `images` that belong to each sample, padded with -1 (views.py). None if each sample has
    one image."""
    tokens: torch.Tensor | None
    """int64 [b, T], WordPiece ids, padded to the longest report (a multiple of 16). None in image mode."""
    attention_mask: torch.Tensor | None
    """int64 [b, T], 1 for a token, 0 for padding."""
    token_positions: torch.Tensor | None = None
    """int64 [N], positions in b · T that the text encoder computes (`packed_positions`). None means all."""
    labels: torch.Tensor
    """int64 [b, L]: the class (L = 1), or for multilabel tasks 1, 0 or -1 (unknown) per class."""
    groups: torch.Tensor
    """int64 [b], the sampling group of each sample."""
    sample_ids: torch.Tensor
    """int64 [b]: number of the draw in the epoch (training) or of the sample in the split (evaluation)."""
    report_ids: torch.Tensor | None = None
    """int64 [b, 2], hashes of each sample's whole report and of the sentences drawn from it (report_pairs.py), 0 for
    none. None unless pairs are drawn."""
    texts: tuple[str, ...] = ()
    """[b], the report sections of each sample as one text, where the loader was asked for texts. Private."""
    keys: tuple[str, ...] = ()
    """[b], the key of each sample, where the loader was asked for texts."""
    replaced: tuple[Replaced, ...] = ()
    """Damaged samples of this batch that were replaced; always empty in evaluation."""

    def __len__(self) -> int:
        return len(self.sample_ids)

    def _map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        changed: dict[str, Any] = {k: function(v) for k, v in vars(self).items() if isinstance(v, torch.Tensor)}
        return replace(self, **changed)

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device. The copy is asynchronous if the batch is in pinned memory."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def share_memory(self) -> "Batch":
        """The batch in /dev/shm, through which a worker passes it. Raises RuntimeError if there is no space left."""
        return self._map(torch.Tensor.share_memory_)

    def pin_memory(self) -> "Batch":
        """The batch in page-locked memory. The DataLoader calls this."""
        return self._map(torch.Tensor.pin_memory)
