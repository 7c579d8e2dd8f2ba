"""Forged shard folders: one shard is rewritten with chosen members, and index and manifest are updated to match it.

All sha256s are correct, so that only a check of the content itself can detect the forgery.
"""

import dataclasses
import hashlib
import io
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_dist.format.manifest import Manifest, load_manifest, open_index

Member = tuple[tarfile.TarInfo, bytes]


def members_of_sample(shards: Path, sample: int, kind: str) -> bytes:
    """The content of one member of the first training shard."""
    manifest = load_manifest(shards)
    entry = manifest.split("train").shards[0]
    record = open_index(shards, entry, manifest.num_labels)[sample]
    start = int(record[f"{kind}_offset"])
    return (shards / entry.file).read_bytes()[start : start + int(record[f"{kind}_size"])]


def forge_sample(shards: Path, sample: int, *, jpg: bytes | None = None, json: bytes | None = None) -> None:
    """Replace members of one sample of the first training shard, and update index and manifest."""
    manifest = load_manifest(shards)
    entry = manifest.split("train").shards[0]
    index, tar, parts, place = (
        np.array(open_index(shards, entry, manifest.num_labels)),
        (shards / entry.file).read_bytes(),
        [],
        0,
    )
    for number, record in enumerate(index):
        span_start = place
        for kind, other in (("jpg", jpg), ("json", json)):
            old = tar[int(record[f"{kind}_offset"]) :][: int(record[f"{kind}_size"])]
            content = other if number == sample and other is not None else old
            block = member(f"{record['key'].decode()}.{kind}", content)
            parts.append(block)
            record[f"{kind}_offset"], record[f"{kind}_size"] = place + tarfile.BLOCKSIZE, len(content)
            place += len(block)
        record["offset"], record["size"] = span_start, place - span_start
        record["crc32"] = zlib.crc32(b"".join(parts[-2:]))
    forge(shards, b"".join(parts) + bytes(2 * tarfile.BLOCKSIZE), index)


def member(name: str, content: bytes, **fields: Any) -> bytes:
    """The header and the padded content of a member; `fields` are those of tarfile.TarInfo."""
    header = tarfile.TarInfo(name)
    header.size = len(content)
    for field, value in fields.items():
        setattr(header, field, value)
    return header.tobuf(tarfile.GNU_FORMAT) + content + b"\0" * (-len(content) % tarfile.BLOCKSIZE)


def forge(shards: Path, tar: bytes | None = None, index: NDArray[Any] | None = None) -> None:
    """Replace the first training shard's tar or index, and update the sizes and sha256s in the manifest."""
    manifest = load_manifest(shards)
    entry = manifest.split("train").shards[0]
    if tar is not None:
        (shards / entry.file).write_bytes(tar)
        entry = dataclasses.replace(entry, bytes=len(tar), sha256=hashlib.sha256(tar).hexdigest())
    if index is not None:
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, index, allow_pickle=index.dtype.hasobject)
        (shards / entry.index).write_bytes(buffer.getvalue())
        digest = hashlib.sha256(buffer.getvalue()).hexdigest()
        entry = dataclasses.replace(entry, samples=len(index), index_sha256=digest)
    _replace_entry(shards, manifest, lambda _: entry)


def forge_index(shards: Path, change: Callable[[NDArray[Any]], None]) -> None:
    """Change the first training shard's index."""
    manifest = load_manifest(shards)
    index = np.array(open_index(shards, manifest.split("train").shards[0], manifest.num_labels))
    change(index)
    forge(shards, index=index)


def forge_entry(shards: Path, **fields: Any) -> None:
    """Change fields of the first training shard in the manifest."""
    _replace_entry(shards, load_manifest(shards), lambda entry: dataclasses.replace(entry, **fields))


def _replace_entry(shards: Path, manifest: Manifest, change: Callable[[Any], Any]) -> None:
    train = manifest.split("train")
    entries = (change(train.shards[0]), *train.shards[1:])
    samples = sum(entry.samples for entry in entries)
    train = dataclasses.replace(train, samples=samples, shards=entries)
    changed = dataclasses.replace(manifest, splits=manifest.splits | {"train": train})
    (shards / "manifest.json").write_text(changed.to_json(), encoding="utf-8")
