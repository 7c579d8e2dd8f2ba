"""Encode images as JPEG in worker processes; the results keep the order of the input."""

from collections.abc import Iterable, Iterator
from functools import partial

from cxr_dist.format.image import encode_jpeg, shrink
from cxr_dist.format.left_out import ImageProblem
from cxr_dist.shard.processes import in_order
from cxr_dist.shard.recipe import ImageFormat
from cxr_dist.shard.record import Pixels

_UNIT = 16  # images that are sent to a process at once

Encoded = bytes | ImageProblem


def encode_all(images: Iterable[Pixels], stored: ImageFormat, workers: int) -> Iterator[Encoded]:
    """One JPEG, or the problem with it, per image; `workers` processes, 0 for this process alone."""
    return in_order(partial(_encode, stored=stored), images, workers, _UNIT)


def _encode(image: Pixels, stored: ImageFormat) -> Encoded:
    try:
        return encode_jpeg(shrink(image.read(stored.short_side), stored.short_side), stored.quality)
    except ImageProblem as problem:
        return problem
