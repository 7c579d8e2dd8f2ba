"""Positioned reads from the shards: (shard, sample) in, an ordinary WebDataset sample dict out.

No tar is parsed: the index says where a sample lies, one `pread` brings both members, and a crc32 over those
bytes catches rot and truncation at every read. Errors name the shard, the index and the reason, never content.
"""

import hashlib
import os
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from cxr_dist.errors import UserError
from cxr_dist.shard.manifest import Manifest, ShardEntry, open_index

_OPEN_SHARDS = 64  # file descriptors kept; a lane's window spans a few shards


class ShardError(UserError):
    """A shard that is not what the manifest and its index say."""


class ShardStore:
    """Random access to the samples of one split. Safe to make before a fork: files open on first use."""

    def __init__(self, folder: Path, manifest: Manifest, split: str) -> None:
        self.folder = folder
        self.shards = manifest.split(split).shards
        self._num_labels = manifest.num_labels
        self._open: OrderedDict[int, tuple[int, NDArray[Any]]] = OrderedDict()

    def index(self, shard: int) -> NDArray[Any]:
        """The shard's index, memory-mapped, shape [samples]; dtype of `manifest.index_dtype`."""
        return self._opened(shard)[1]

    def read(self, shard: int, sample: int) -> dict[str, Any]:
        """Read one sample: {"__key__", "__url__", "jpg": bytes, "json": bytes, "record": its index record}."""
        descriptor, index = self._opened(shard)
        record = index[sample]
        start, size = int(record["offset"]), int(record["size"])
        data = os.pread(descriptor, size, start)
        if len(data) < size or zlib.crc32(data) != int(record["crc32"]):
            reason = (
                "is cut short" if len(data) < size else "does not have the bytes that were written (crc32)"
            )
            raise ShardError(
                f"{self.shards[shard].file}: sample {sample} {reason}: copy the shard again, or run "
                "`cxr-dist verify` for all that is wrong"
            )
        jpg, json = int(record["jpg_offset"]) - start, int(record["json_offset"]) - start
        return {
            "__key__": record["key"].decode("ascii"),
            "__url__": self.shards[shard].file,
            "jpg": data[jpg : jpg + int(record["jpg_size"])],
            "json": data[json : json + int(record["json_size"])],
            "record": record,
        }

    def close(self) -> None:
        """Close all files."""
        while self._open:
            os.close(self._open.popitem()[1][0])

    def _opened(self, shard: int) -> tuple[int, NDArray[Any]]:
        if shard in self._open:
            self._open.move_to_end(shard)
            return self._open[shard]
        if len(self._open) >= _OPEN_SHARDS:
            os.close(self._open.popitem(last=False)[1][0])
        entry = self.shards[shard]
        self._check_index(entry)
        self._open[shard] = self._open_tar(entry), open_index(self.folder, entry, self._num_labels)
        return self._open[shard]

    def _check_index(self, entry: ShardEntry) -> None:
        path = self.folder / entry.index
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != entry.index_sha256:
            raise ShardError(
                f"{entry.index} is missing or not the one that was written (sha256): copy it again"
            )

    def _open_tar(self, entry: ShardEntry) -> int:
        path = self.folder / entry.file
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise ShardError(f"{entry.file} cannot be opened: {error.strerror}") from None
        found = os.fstat(descriptor).st_size
        if found != entry.bytes:
            os.close(descriptor)
            raise ShardError(
                f"{entry.file} has {found} bytes; the manifest says {entry.bytes}: copy it again"
            )
        return descriptor
