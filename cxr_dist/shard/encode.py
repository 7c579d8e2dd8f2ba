"""Films into JPEG bytes over processes: an ordered stream in, the same order out, whatever the number of workers."""

from collections.abc import Iterable, Iterator
from functools import partial

from cxr_dist.format.image import encode_jpeg, shrink
from cxr_dist.format.left_out import ImageProblem
from cxr_dist.shard.processes import in_order
from cxr_dist.shard.recipe import ImageFormat
from cxr_dist.shard.record import Pixels

_UNIT = 16  # films that are sent to a process at once

Encoded = bytes | ImageProblem


def encode_all(films: Iterable[Pixels], image: ImageFormat, workers: int) -> Iterator[Encoded]:
    """One JPEG, or the problem with it, per film; `workers` processes, 0 for none but this one."""
    return in_order(partial(_encode, image=image), films, workers, _UNIT)


def _encode(film: Pixels, image: ImageFormat) -> Encoded:
    try:
        return encode_jpeg(shrink(film.read(image.short_side), image.short_side), image.quality)
    except ImageProblem as problem:
        return problem
