"""The shards of a split: a tuple of entries from manifest.json or, where they are very many, a binary table on disk.

    SHARDS/train.shards.npy      a plain NumPy array (no pickle), one record per shard, in order

manifest.json then has the table's name and sha256 in place of the entries: a rank reads the columns that it plans
with, and the records of shards that it opens, where JSON would take it seconds and gigabytes (benchmarks/plan).
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from cxr_dist.errors import UserError
from cxr_dist.files import sha256_of, whole_file

MOST_LISTED = 10_000  # shards of a split that manifest.json lists itself
_CHUNK = 65_536  # records


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """One tar and its index."""

    file: str
    index: str
    samples: int
    bytes: int
    sha256: str
    index_sha256: str
    group_counts: tuple[int, ...]
    """Samples per sampling group (see `manifest.index_dtype`)."""


def table_dtype(num_groups: int) -> np.dtype[Any]:
    """Record of one shard: STEM.tar and STEM.index.npy, counts, and both digests as bytes."""
    return np.dtype(
        [
            ("stem", "S32"),
            ("samples", "<i8"),
            ("bytes", "<i8"),
            ("sha256", "u1", (32,)),
            ("index_sha256", "u1", (32,)),
            ("group_counts", "<i4", (num_groups,)),
        ]
    )


class ShardTable(Sequence[ShardEntry]):
    """The entries of a table, read from disk when asked for. Safe to make before a fork."""

    def __init__(self, path: Path, sha256: str) -> None:
        """Open and check a table; raises UserError where it is missing or not the one that was written."""
        if not path.is_file() or sha256_of(path) != sha256:
            raise UserError(
                f"{path.name} is missing or does not have the bytes that were written (its sha256): copy it again from "
                "where the shards were made"
            )
        self.path, self.sha256 = path, sha256
        try:
            self._records: Any = np.lib.format.open_memmap(path, mode="r")  # refuses pickled objects
            sound = self._records.dtype == table_dtype(self._records.dtype["group_counts"].shape[0])
        except (KeyError, ValueError):
            sound = False
        if not sound or self._records.ndim != 1:
            raise UserError(f"{path.name} is not a table of shards: shard the data again")

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, place: int) -> ShardEntry: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[ShardEntry, ...]: ...
    def __getitem__(self, place: int | slice) -> ShardEntry | tuple[ShardEntry, ...]:
        if isinstance(place, slice):
            return tuple(map(self._entry, self._records[place]))
        return self._entry(self._records[place])

    def __iter__(self) -> Iterator[ShardEntry]:
        return map(self._entry, self._records)

    def column(self, name: str) -> NDArray[np.int64]:
        """A field of all records; read in pieces, so that the rest does not stay in memory."""
        dtype = self._records.dtype
        values = np.empty((len(self), *dtype[name].shape), np.int64)
        for first in range(0, len(self), _CHUNK):
            piece = values[first : first + _CHUNK]
            offset = self._records.offset + first * dtype.itemsize
            piece[:] = np.fromfile(self.path, dtype, len(piece), offset=offset)[name]
        if (values < 0).any():
            raise UserError(f"the numbers of {self.path.name} are not counts: shard the data again")
        return values

    @staticmethod
    def _entry(record: Any) -> ShardEntry:
        stem = record["stem"].decode("ascii", "replace")
        return _checked(
            ShardEntry(
                file=f"{stem}.tar",
                index=f"{stem}.index.npy",
                samples=int(record["samples"]),
                bytes=int(record["bytes"]),
                sha256=record["sha256"].tobytes().hex(),
                index_sha256=record["index_sha256"].tobytes().hex(),
                group_counts=tuple(record["group_counts"].tolist()),
            )
        )


def write_table(path: Path, shards: Sequence[ShardEntry]) -> ShardTable:
    """Write entries, one or more, as a table; whole or not at all."""
    records = np.zeros(len(shards), table_dtype(len(shards[0].group_counts)))
    for record, shard in zip(records, shards, strict=True):
        record["stem"] = shard.file.removesuffix(".tar")
        record["samples"], record["bytes"] = shard.samples, shard.bytes
        record["sha256"] = list(bytes.fromhex(shard.sha256))
        record["index_sha256"] = list(bytes.fromhex(shard.index_sha256))
        record["group_counts"] = shard.group_counts
    with whole_file(path) as file:
        np.lib.format.write_array(file, records, allow_pickle=False)
    return ShardTable(path, sha256_of(path))


def column(
    shards: Sequence[ShardEntry], name: Literal["samples", "bytes", "group_counts"]
) -> NDArray[np.int64]:
    """One number per shard, [S], or for group_counts [S, groups]."""
    if isinstance(shards, ShardTable):
        return shards.column(name)
    return np.array([getattr(shard, name) for shard in shards], dtype=np.int64)


def plain_shards(shards: Sequence[ShardEntry]) -> Any:
    """What manifest.json has of them."""
    if isinstance(shards, ShardTable):
        return {"table": shards.path.name, "sha256": shards.sha256}
    return [dataclasses.asdict(shard) for shard in shards]


def shards_of(plain: Any, folder: Path) -> Sequence[ShardEntry]:
    """The way back; raises UserError for what `cxr-dist shard` does not write, KeyError or TypeError for other JSON."""
    if isinstance(plain, dict):
        return ShardTable(folder / _plain_name(plain["table"], ".shards.npy"), plain["sha256"])
    return tuple(
        _checked(ShardEntry(**each | {"group_counts": tuple(each["group_counts"])})) for each in plain
    )


def _checked(shard: ShardEntry) -> ShardEntry:
    _plain_name(shard.file, ".tar")
    _plain_name(shard.index, ".index.npy")
    numbers = (shard.samples, shard.bytes, *shard.group_counts)
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise UserError(f"the manifest's numbers for {shard.file} are not counts: run `cxr-dist shard` again")
    return shard


def _plain_name(name: Any, ending: str) -> str:
    """No path, no URL, no command."""
    if not re.fullmatch(rf"[A-Za-z0-9_-]+{re.escape(ending)}", str(name)):
        raise UserError(
            f"the manifest names a file that `cxr-dist shard` does not write (expected NAME{ending})"
        )
    return str(name)
