"""Positioned reads from the shards: (shard, sample) in, an ordinary WebDataset sample dict out.

No tar is parsed: the index says where a sample lies, one `pread` brings all its members, and a crc32 over those
bytes catches rot and truncation at every read. Errors name the shard, the index and the reason, never content.
"""

import hashlib
import os
import weakref
import zlib
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from cxr_dist.errors import UserError, out_of_files
from cxr_dist.format.manifest import Manifest, ShardEntry, index_in
from cxr_dist.format.stored_sample import CUT_SHORT, OTHER_BYTES, members_in

OPEN_SHARDS = 64  # whose descriptor and index are kept; a lane's window spans a few


class ShardError(UserError):
    """A shard that is not what the manifest and its index say.

    It ends a run with any budget of bad samples: which samples are lost is then not known, another node may have
    them, and stand-ins would have to come from shards that this node was not meant to read.
    """


class SampleError(ShardError):
    """One damaged sample in a shard that is otherwise readable; `reason` is one of `stored_sample.REASONS`."""

    def __init__(self, file: str, sample: int, reason: str) -> None:
        super().__init__(
            f"{file}: sample {sample} {reason}: copy the shard again, or run `cxr-dist verify` for all that is wrong"
        )
        self.reason = reason


class ShardCopies(Protocol):
    """What a store needs of `stage.StagedShards`: copies of shards of a slow or remote place, in the store's folder."""

    def open_tar(self, shard: ShardEntry) -> int:
        """Descriptor of the shard's copy."""

    def bring_index(self, shard: ShardEntry) -> None:
        """Have the shard's index in the folder."""

    def doubt(self, shard: ShardEntry) -> None:
        """Check the copy again at the next opening."""

    def prefetch(self, shards: Iterable[ShardEntry]) -> None:
        """Copy shards in the background."""

    def close(self) -> None:
        """End the background copying."""


class ShardStore:
    """Random access to the samples of one split. Safe to make before a fork: files open on first use.

    With `copies`, the shards of `folder` are the staged ones, and come when they are needed.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, split: str, copies: ShardCopies | None = None
    ) -> None:
        self.folder = folder
        self.shards = manifest.split(split).shards
        self._num_labels, self._views, self._copies = manifest.num_labels, manifest.views, copies
        self._tars: OrderedDict[int, int] = OrderedDict()
        self._indices: OrderedDict[int, NDArray[Any]] = OrderedDict()
        weakref.finalize(self, _close_all, self._tars)  # of a stream that nobody read to its end

    @property
    def staged(self) -> bool:
        """Whether shards are copied before use, so that `expect` has an effect."""
        return self._copies is not None

    def expect(self, current: set[int], upcoming: Iterable[int]) -> None:
        """Say which shards are read now, so that all others close, and which to copy ahead, in this order."""
        if self._copies is not None:
            for shard in self._tars.keys() - current:
                os.close(self._tars.pop(shard))
            self._copies.prefetch([self.shards[shard] for shard in upcoming])

    def index(self, shard: int) -> NDArray[Any]:
        """The shard's index, shape [samples]; dtype of `manifest.index_dtype`."""
        if shard in self._indices:
            self._indices.move_to_end(shard)
            return self._indices[shard]
        if len(self._indices) >= OPEN_SHARDS:
            self._indices.popitem(last=False)
        entry = self.shards[shard]
        if self._copies is not None:
            self._copies.bring_index(entry)
        self._indices[shard] = index_in(self._index_bytes(entry), entry, self._num_labels, self._views)
        return self._indices[shard]

    def read(self, shard: int, sample: int) -> dict[str, Any]:
        """Read one sample: {"__key__", "__url__", "jpg": bytes, "json": bytes, "record": its index record}.

        A study's other films are "1.jpg", "2.jpg" and so on, as WebDataset has them.

        Raises SampleError for damage of this sample, ShardError where the shard or its index is another one.
        """
        record = self.index(shard)[sample]
        start, data = int(record["offset"]), self._bytes_of(shard, record)
        if reason := _damage(data, record):
            raise SampleError(self.shards[shard].file, sample, reason)
        found = {"__key__": record["key"].decode("ascii"), "__url__": self.shards[shard].file}
        members = {
            name: data[offset - start : offset - start + size] for name, offset, size in members_in(record)
        }
        return found | members | {"record": record}

    def close(self) -> None:
        """Close all files."""
        self._indices.clear()
        _close_all(self._tars)
        if self._copies is not None:
            self._copies.close()

    def _bytes_of(self, shard: int, record: Any) -> bytes:
        """The sample's bytes in the tar; where a staged copy has gone bad, those of a new one."""
        data = os.pread(self._tar(shard), int(record["size"]), int(record["offset"]))
        if self._copies is None or not _damage(data, record):
            return data
        os.close(self._tars.pop(shard))
        self._copies.doubt(self.shards[shard])
        return os.pread(self._tar(shard), int(record["size"]), int(record["offset"]))

    def _tar(self, shard: int) -> int:
        """Descriptor of the shard's tar."""
        if shard in self._tars:
            self._tars.move_to_end(shard)
            return self._tars[shard]
        if len(self._tars) >= OPEN_SHARDS:
            os.close(self._tars.popitem(last=False)[1])
        entry = self.shards[shard]
        self._tars[shard] = self._copies.open_tar(entry) if self._copies else self._open_tar(entry)
        return self._tars[shard]

    def _index_bytes(self, entry: ShardEntry) -> bytes:
        another = ShardError(
            f"{entry.index} is missing or not the one that was written (sha256): copy it again"
        )
        try:
            content = (self.folder / entry.index).read_bytes()
        except OSError as error:
            raise out_of_files(error) or another from None
        if hashlib.sha256(content).hexdigest() != entry.index_sha256:
            raise another
        return content

    def _open_tar(self, entry: ShardEntry) -> int:
        path = self.folder / entry.file
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise out_of_files(error) or ShardError(
                f"{entry.file} cannot be opened ({error.strerror}): copy it again, and let this machine read it"
            ) from None
        found = os.fstat(descriptor).st_size
        if found != entry.bytes:
            os.close(descriptor)
            raise ShardError(
                f"{entry.file} has {found} bytes; the manifest says {entry.bytes}: copy it again"
            )
        return descriptor


def _close_all(descriptors: OrderedDict[int, int]) -> None:
    while descriptors:
        os.close(descriptors.popitem()[1])


def _damage(data: bytes, record: Any) -> str:
    """What is wrong with a sample's bytes; empty where nothing is."""
    if len(data) < int(record["size"]):
        return CUT_SHORT
    return "" if zlib.crc32(data) == int(record["crc32"]) else OTHER_BYTES
