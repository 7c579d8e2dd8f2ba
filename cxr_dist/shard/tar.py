"""Write one shard: samples and their JPEGs become a plain WebDataset tar and its index.

The tar is USTAR with one header block per member and a fixed owner, mode and time, so that the same samples give the
same bytes.
"""

import hashlib
import io
import json
import os
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_dist.files import whole_file, write_whole
from cxr_dist.format.manifest import UNKNOWN, ShardEntry, index_dtype
from cxr_dist.format.stored_boxes import plain_boxes
from cxr_dist.format.stored_sample import image_name
from cxr_dist.shard.select import Sample

_END = b"\0" * (2 * tarfile.BLOCKSIZE)


def write_shard(
    folder: Path,
    stem: str,
    samples: Iterable[tuple[Sample, Sequence[bytes]]],
    classes: int,
    multilabel: bool,
    views: int = 1,
) -> ShardEntry:
    """Write STEM.tar and STEM.index.npy.

    `samples`, each with its 1 to `views` JPEGs, are consumed one at a time.
    """
    records: list[Any] = []
    digest = hashlib.sha256()
    size = 0
    with whole_file(folder / f"{stem}.tar") as file:
        for sample, jpegs in samples:
            span, members = _span(sample, [*jpegs, _json(sample, multilabel, views)], size)
            records.append(_record(sample, span, size, members, views))
            size += len(span)
            digest.update(span)
            file.write(span)
        end = _END + b"\0" * (-(size + len(_END)) % tarfile.RECORDSIZE)
        digest.update(end)
        file.write(end)
    index = np.array(records, index_dtype(classes if multilabel else 1, views))
    counts = Counter(index["group"].tolist())
    return ShardEntry(
        file=f"{stem}.tar",
        index=f"{stem}.index.npy",
        samples=len(records),
        bytes=size + len(end),
        sha256=digest.hexdigest(),
        index_sha256=_write_index(folder / f"{stem}.index.npy", index),
        group_counts=tuple(counts[group] for group in range(classes + multilabel)),
    )


def _span(sample: Sample, contents: Sequence[bytes], start: int) -> tuple[bytes, list[tuple[int, int]]]:
    """Return the sample's bytes in the tar, which begin at `start`, and (offset, size) of each member's content."""
    span, members = b"", []
    names = [image_name(view) for view in range(len(contents) - 1)] + ["json"]
    for name, content in zip(names, contents, strict=True):
        header = tarfile.TarInfo(f"{sample.key}.{name}")
        header.size = len(content)
        span += header.tobuf(tarfile.USTAR_FORMAT)
        members.append((start + len(span), len(content)))
        span += content + b"\0" * (-len(content) % tarfile.BLOCKSIZE)
    return span, members


def _json(sample: Sample, multilabel: bool, views: int) -> bytes:
    labels = [None if value == UNKNOWN else value for value in sample.label]
    content: dict[str, Any] = {"labels": labels} if multilabel else {"label": sample.label[0]}
    content |= {
        "study": sample.study,
        "patient": sample.patient,
        "view": sample.view,
        "sex": sample.sex,
        "age": sample.age,
        "text": dict(sample.text),
    }
    if sample.boxes:
        content["boxes"] = plain_boxes(sample.boxes, views)
    if views > 1:
        content["views"] = [image.view for image in sample.images]
    return json.dumps(content, ensure_ascii=False).encode("utf-8")


def _record(sample: Sample, span: bytes, start: int, members: Sequence[tuple[int, int]], views: int) -> tuple[Any, ...]:
    ids = (sample.key.encode("ascii"), sample.study.encode("ascii"), sample.patient.encode("ascii"))
    *images, facts = members
    missing = [(start, 0)] * (views - len(images))
    jpg = zip(*images, *missing, strict=True) if views > 1 else images[0]
    return (*ids, sample.group, sample.label, start, len(span), zlib.crc32(span), *jpg, *facts)


def _write_index(path: Path, index: NDArray[Any]) -> str:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, index, version=(1, 0), allow_pickle=False)
    write_whole(path, buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def members_of(path: Path) -> Iterator[tuple[str, int, int]]:
    """Yield name, content offset and content size of each member from the headers; no content is read.

    Memory does not grow with the number of members. Raises tarfile.TarError unless the file is a whole tar of regular
    files under plain USTAR headers: links, devices and extended headers can make a reader do more than read.
    """
    with path.open("rb") as file:
        end, place = file.seek(0, os.SEEK_END), 0
        while place < end:
            file.seek(place)
            block = file.read(tarfile.BLOCKSIZE)
            if not any(block):
                return
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            if not header.isreg() or not 0 <= header.size <= end - place - tarfile.BLOCKSIZE:
                raise tarfile.ReadError("not a whole tar of plain files")
            yield header.name, place + tarfile.BLOCKSIZE, header.size
            place += tarfile.BLOCKSIZE + -(-header.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    raise tarfile.ReadError("no end of the archive")
