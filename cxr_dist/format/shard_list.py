"""The shards of a split: a tuple of entries from manifest.json or, if there are very many, a binary table on disk.

    SHARDS/train.shards.npy      a plain NumPy array (no pickle), one record per shard, in order

In place of the entries, manifest.json then holds the table's name and sha256. A rank reads only the columns that the
plan needs and the records of the shards that it opens; parsing JSON would be slow and take gigabytes (benchmarks/plan).
"""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from cxr_dist.errors import UserError
from cxr_dist.files import sha256_of, whole_file

MOST_LISTED = 10_000  # shards of a split that manifest.json lists itself
_CHUNK = 65_536  # records that `column` reads at once


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


def table_dtype(num_groups: int) -> np.dtype[np.void]:
    """Return the record type of one shard: the stem of both file names, counts, and both digests as bytes."""
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
    """The entries of a table, which are read from disk on access. A process may fork after creating it."""

    def __init__(self, path: Path, sha256: str) -> None:
        """Open and check a table; raises UserError if it is missing or damaged."""
        if not path.is_file() or sha256_of(path) != sha256:
            raise UserError(
                f"{path.name} is missing or does not have the bytes that were written (its sha256 differs): copy it "
                "again from where the shards were made"
            )
        self.path, self.sha256 = path, sha256
        try:
            self._records: Any = np.lib.format.open_memmap(path, mode="r")  # refuses pickled objects
            dtype = self._records.dtype
            sound = dtype == table_dtype(dtype["group_counts"].shape[0]) and self._records.ndim == 1
        except (KeyError, ValueError):
            sound = False
        if not sound:
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

    def column(self, name: str) -> NDArray[np.int64]:
        """Return one field of all records; the file is read in pieces to bound the memory."""
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
    def _entry(record: np.void) -> ShardEntry:
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


class JoinedShards(Sequence[ShardEntry]):
    """The entries of several lists one after another, without a copy of those that are tables."""

    def __init__(self, parts: Sequence[Sequence[ShardEntry]]) -> None:
        self.parts = tuple(parts)
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    @overload
    def __getitem__(self, place: int) -> ShardEntry: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[ShardEntry, ...]: ...
    def __getitem__(self, place: int | slice) -> ShardEntry | tuple[ShardEntry, ...]:
        places = range(len(self))[place]  # raises IndexError, and counts negative places from the end
        if isinstance(places, range):
            return tuple(map(self.__getitem__, places))
        part = int(np.searchsorted(self._ends, places, side="right"))
        return self.parts[part][places - int(self._ends[part]) + len(self.parts[part])]


def write_table(path: Path, shards: Sequence[ShardEntry]) -> ShardTable:
    """Write at least one entry as a table; the file appears only when it is whole."""
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


def column(shards: Sequence[ShardEntry], name: Literal["samples", "bytes", "group_counts"]) -> NDArray[np.int64]:
    """Return a field of all shards as an array [shards]; for group_counts [shards, groups]."""
    if isinstance(shards, ShardTable):
        return shards.column(name)
    if isinstance(shards, JoinedShards):
        return np.concatenate([column(part, name) for part in shards.parts])
    return np.array([getattr(shard, name) for shard in shards], dtype=np.int64)


def plain_shards(shards: Sequence[ShardEntry]) -> dict[str, str] | list[dict[str, Any]]:
    """Return what manifest.json holds for these shards: their entries, or a reference to their table."""
    if isinstance(shards, ShardTable):
        return {"table": shards.path.name, "sha256": shards.sha256}
    return [dataclasses.asdict(shard) for shard in shards]


def shards_of(plain: Any, folder: Path) -> Sequence[ShardEntry]:
    """Invert `plain_shards`; raises UserError, or KeyError or TypeError, for anything that it does not return."""
    if isinstance(plain, dict):
        return ShardTable(folder / _plain_name(plain["table"], ".shards.npy"), plain["sha256"])
    return tuple(_checked(ShardEntry(**each | {"group_counts": tuple(each["group_counts"])})) for each in plain)


def _checked(shard: ShardEntry) -> ShardEntry:
    _plain_name(shard.file, ".tar")
    _plain_name(shard.index, ".index.npy")
    numbers = (shard.samples, shard.bytes, *shard.group_counts)
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise UserError(f"the manifest's numbers for {shard.file} are not counts: run `cxr-dist shard` again")
    return shard


def _plain_name(name: str, ending: str) -> str:
    """Return the name if it is neither a path nor a URL nor a command; raises UserError otherwise."""
    if not re.fullmatch(rf"[A-Za-z0-9_-]+{re.escape(ending)}", str(name)):
        raise UserError(f"the manifest names a file that `cxr-dist shard` does not write (expected NAME{ending})")
    return name
