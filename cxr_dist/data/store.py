"""Random access to samples in shards: (shard, sample) in, an ordinary WebDataset sample dict out.

No tar is parsed: the index has the position of a sample, one `pread` reads all its members, and their crc32 is checked
at every read. Error messages contain the shard, the number of the sample and the reason, never content.
"""

import hashlib
import os
import weakref
import zlib
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cxr_dist.errors import UserError, out_of_files
from cxr_dist.files import read_regular, regular_descriptor
from cxr_dist.format.manifest import Manifest, ShardEntry, index_in
from cxr_dist.format.stored_sample import CUT_SHORT, OTHER_BYTES, members_in

OPEN_SHARDS = 64  # shards whose descriptor and index are kept open; a lane's window spans a few


class ShardError(UserError):
    """A shard does not agree with the manifest or with its index.

    This ends a run whatever its budget of bad samples is: it is not known which samples are lost, and replacements
    would have to come from shards that this node does not read.
    """


class SampleError(ShardError):
    """One sample is damaged, and the rest of the shard can be read. `reason` is one of `stored_sample.REASONS`."""

    def __init__(self, file: str, sample: int, reason: str) -> None:
        super().__init__(
            f"{file}: sample {sample} {reason}: copy the shard again, or run `cxr-dist verify` to list all damage"
        )
        self.reason = reason


class ShardCopies(Protocol):
    """The methods of `stage.StagedShards`, which documents them, that a store calls."""

    def open_tar(self, shard: ShardEntry) -> int: ...

    def bring_index(self, shard: ShardEntry) -> None: ...

    def doubt(self, shard: ShardEntry) -> None: ...

    def prefetch(self, shards: Iterable[ShardEntry]) -> None: ...

    def close(self) -> None: ...


class ShardStore:
    """Random access to the samples of one split. Files are opened on first use, so a store may be forked before.

    With `copies`, `folder` holds staged copies, which are made when they are needed.
    """

    def __init__(self, folder: Path, manifest: Manifest, split: str, copies: ShardCopies | None = None) -> None:
        self.folder = folder
        self.shards = manifest.split(split).shards
        self._num_labels, self._views, self._copies = manifest.num_labels, manifest.views, copies
        self._tars: OrderedDict[int, int] = OrderedDict()
        self._indices: OrderedDict[int, NDArray[np.void]] = OrderedDict()
        weakref.finalize(self, _close_all, self._tars)  # for a stream that is not read to its end

    @property
    def staged(self) -> bool:
        """Whether shards are copied before use. `expect` has an effect only then."""
        return self._copies is not None

    def expect(self, current: set[int], upcoming: Iterable[int]) -> None:
        """Close all shards except the `current` ones, and start to copy the `upcoming` ones in this order."""
        if self._copies is not None:
            for shard in self._tars.keys() - current:
                os.close(self._tars.pop(shard))
            self._copies.prefetch([self.shards[shard] for shard in upcoming])

    def index(self, shard: int) -> NDArray[np.void]:
        """The shard's index, [samples] of dtype `manifest.index_dtype`."""
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

        Further images of a study are "1.jpg", "2.jpg" and so on, as in WebDataset. Raises SampleError if this sample is
        damaged, and ShardError if the shard or its index is not the one that the manifest describes.
        """
        record, file = self.index(shard)[sample], self.shards[shard].file
        start, data = int(record["offset"]), self._bytes_of(shard, record)
        if reason := _damage(data, record):
            raise SampleError(file, sample, reason)
        members = {name: data[at - start : at - start + size] for name, at, size in members_in(record)}
        return {"__key__": record["key"].decode("ascii"), "__url__": file, "record": record} | members

    def close(self) -> None:
        self._indices.clear()
        _close_all(self._tars)
        if self._copies is not None:
            self._copies.close()

    def _bytes_of(self, shard: int, record: Any) -> bytes:
        """The sample's bytes in the tar. A staged copy that is damaged is replaced first."""
        data = os.pread(self._tar(shard), int(record["size"]), int(record["offset"]))
        if self._copies is None or not _damage(data, record):
            return data
        os.close(self._tars.pop(shard))
        self._copies.doubt(self.shards[shard])
        return os.pread(self._tar(shard), int(record["size"]), int(record["offset"]))

    def _tar(self, shard: int) -> int:
        if shard in self._tars:
            self._tars.move_to_end(shard)
            return self._tars[shard]
        if len(self._tars) >= OPEN_SHARDS:
            os.close(self._tars.popitem(last=False)[1])
        entry = self.shards[shard]
        self._tars[shard] = self._copies.open_tar(entry) if self._copies else self._open_tar(entry)
        return self._tars[shard]

    def _index_bytes(self, entry: ShardEntry) -> bytes:
        wrong = ShardError(f"{entry.index} is missing or not the one that was written (sha256): copy it again")
        try:
            content = read_regular(self.folder / entry.index)
        except OSError as error:
            raise out_of_files(error) or wrong from None
        if hashlib.sha256(content).hexdigest() != entry.index_sha256:
            raise wrong
        return content

    def _open_tar(self, entry: ShardEntry) -> int:
        path = self.folder / entry.file
        try:
            descriptor = regular_descriptor(path)
        except OSError as error:
            raise out_of_files(error) or ShardError(
                f"{entry.file} cannot be opened ({error.strerror}): copy it again, or allow this user to read it"
            ) from None
        size = os.fstat(descriptor).st_size
        if size != entry.bytes:
            os.close(descriptor)
            raise ShardError(f"{entry.file} has {size} bytes; the manifest says {entry.bytes}: copy it again")
        return descriptor


def _close_all(descriptors: OrderedDict[int, int]) -> None:
    while descriptors:
        os.close(descriptors.popitem()[1])


def _damage(data: bytes, record: Any) -> str:
    """The reason why a sample's bytes are damaged, or "" if they are not."""
    if len(data) < int(record["size"]):
        return CUT_SHORT
    return "" if zlib.crc32(data) == int(record["crc32"]) else OTHER_BYTES
