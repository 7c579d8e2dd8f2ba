"""Give all records of one image file the same `image_id`, however the source spells its name.

`f.png`, `./f.png`, a link and, on some file systems, `F.PNG` are one image. Under two patients, they would put that
image into two splits; with one id, its patients are merged (select.py).
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain

from cxr_dist.format.image import ImageFile
from cxr_dist.shard.record import Record

_THREADS = 16  # a network file system takes a millisecond for each file, but several at once
_UNIT = 1000  # files that are given to a thread at once

_Identity = tuple[int, int, int]


def with_one_id_per_file(records: list[Record]) -> list[Record]:
    """Return the records; those whose image is the same file have the first one's `image_id`."""
    units = [records[start : start + _UNIT] for start in range(0, len(records), _UNIT)]
    with ThreadPoolExecutor(min(_THREADS, len(units) or 1)) as threads:
        identities = list(chain.from_iterable(threads.map(_identities, units)))
    first: dict[_Identity, str] = {}
    return [
        record if identity is None else _with_id(record, first.setdefault(identity, record.image_id))
        for record, identity in zip(records, identities, strict=True)
    ]


def _with_id(record: Record, image_id: str) -> Record:
    return record if record.image_id == image_id else replace(record, image_id=image_id)


def _identities(records: Sequence[Record]) -> list[_Identity | None]:
    """Return the device, inode and size of each file; None for one that does not exist or is not a file."""
    return [_identity(record.pixels.path) if isinstance(record.pixels, ImageFile) else None for record in records]


def _identity(path: os.PathLike[str]) -> _Identity | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # ValueError for a name with a NUL character
        return None
    return (status.st_dev, status.st_ino, status.st_size) if status.st_ino else None
