"""Copy shards from a slow or remote place to a disk of the node, and open the copies.

    ROOT/cxr_dist-UID/MANIFEST_SHA256/train-00000.tar         complete and checked against the manifest's sha256
                                      train-00000.tar.lock    locked during the copy; contains the checked sha256;
                                                              its modification time is the time of the last use
                                      train-00000.tar.partial, .reserved    a copy that is not finished

All processes of a user on a node share the copies: one process copies and the others wait for its lock. Copies are
not fsynced, because damage after a power cut is detected by the crc32 of each read.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterable
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from cxr_dist.data.origin import fetch_file
from cxr_dist.data.stage_space import StageSpace
from cxr_dist.data.store import ShardError
from cxr_dist.errors import UserError
from cxr_dist.files import locked, sha256_of, take_lock
from cxr_dist.format.manifest import ShardEntry

_POLL_SECONDS = 0.1  # while unfinished copies occupy the space
_Request = tuple[ShardEntry, int]  # a shard and the time of the request, in nanoseconds since the epoch


class StagedShards:
    """The staged shards of one data set. Safe to create before a fork: files and threads are opened on first use."""

    def __init__(self, shards: str, folder: Path, space: StageSpace) -> None:
        self.shards, self.folder, self._space = shards, folder, space
        self._requests: SimpleQueue[_Request | None] | None = None

    def open_tar(self, shard: ShardEntry) -> int:
        """Copy the shard if needed and return a file descriptor; raises ShardError if it cannot be copied.

        The descriptor stays valid when the copy is deleted to free space.
        """
        with locked(self._lock_of(shard.file)) as lock:
            assert lock is not None
            descriptor = self._open_existing(lock, shard.file, shard.sha256, shard.bytes)
            if descriptor is None:
                while not self._space.reserve(shard.file, self.folder, shard.bytes):
                    time.sleep(_POLL_SECONDS)
                descriptor = self._copy(shard)
            _note_use(lock, shard.sha256)
        take_lock(descriptor, fcntl.LOCK_SH)  # marks the copy as being read until the descriptor is closed
        return descriptor

    def bring_index(self, shard: ShardEntry) -> None:
        """Copy the shard's index to `folder`. Indices are small, so they are neither counted nor deleted."""
        with locked(self._lock_of(shard.index)) as lock:
            assert lock is not None
            descriptor = self._open_existing(lock, shard.index, shard.index_sha256, None)
            if descriptor is None:
                self._fetch_checked(shard.index, shard.index_sha256)
                self._partial(shard.index).replace(self.folder / shard.index)
            else:
                os.close(descriptor)
            _note_use(lock, shard.index_sha256)

    def doubt(self, shard: ShardEntry) -> None:
        """Check the copy's sha256 again when it is opened next, because a read has found damage."""
        with locked(self._lock_of(shard.file)) as lock:
            assert lock is not None
            os.ftruncate(lock, 0)

    def prefetch(self, shards: Iterable[ShardEntry]) -> None:
        """Copy shards in the background in this order, except those that another process is already copying.

        To free space it deletes only shards that no process is reading and that were last used before this call.
        """
        if self._requests is None:
            self._requests = SimpleQueue()
            Thread(target=self._serve, args=(self._requests,), daemon=True, name="stage").start()
        for shard in shards:
            self._requests.put((shard, time.time_ns()))

    def close(self) -> None:
        """Stop copying in the background after the current copy."""
        if self._requests is not None:
            self._requests.put(None)
            self._requests = None

    def _serve(self, requests: SimpleQueue[_Request | None]) -> None:
        while (request := requests.get()) is not None:
            shard, requested_at = request
            # The process that reads the shard will meet the same error and raise it.
            with contextlib.suppress(UserError, OSError):
                self.bring_index(shard)
                self._prefetch_tar(shard, requested_at)

    def _prefetch_tar(self, shard: ShardEntry, requested_at: int) -> None:
        with locked(self._lock_of(shard.file), wait=False) as lock:
            if lock is None:
                return  # another process is copying it
            descriptor = self._open_existing(lock, shard.file, shard.sha256, shard.bytes)
            if descriptor is None:
                if not self._space.reserve(shard.file, self.folder, shard.bytes, unused_since=requested_at):
                    return
                descriptor = self._copy(shard)
            os.close(descriptor)
            _note_use(lock, shard.sha256)

    def _open_existing(self, lock: int, name: str, sha256: str, size: int | None) -> int | None:
        """Descriptor of a complete copy, or None. The sha256 is computed only if the lock file does not record it."""
        path = self.folder / name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        right_size = size in (None, os.fstat(descriptor).st_size)
        if right_size and (_recorded_sha256(lock) == sha256 or sha256_of(path) == sha256):
            return descriptor
        os.close(descriptor)
        return None

    def _copy(self, shard: ShardEntry) -> int:
        """Copy a shard for which space is reserved, and return a descriptor of the copy."""
        try:
            self._fetch_checked(shard.file, shard.sha256)
            descriptor = os.open(self._partial(shard.file), os.O_RDONLY | os.O_CLOEXEC)
            self._space.publish(shard.file, self.folder)
            return descriptor
        except BaseException:
            self._space.release(shard.file, self.folder)
            raise

    def _fetch_checked(self, name: str, sha256: str) -> None:
        """Fetch a file to NAME.partial; a failed or damaged transfer is repeated once."""
        for last in (False, True):
            try:
                fetch_file(self.shards, name, self._partial(name))
                if sha256_of(self._partial(name)) == sha256:  # read back from the disk
                    return
                raise ShardError(
                    f"{name} was fetched twice and does not have the manifest's sha256: the source file is damaged or "
                    "was replaced; run `cxr-dist verify` on the source, or copy the file there again"
                )
            except ShardError:
                if last:
                    raise

    def _lock_of(self, name: str) -> Path:
        if Path(name).name != name or name.startswith("."):
            raise ShardError("the manifest names a shard outside its folder: do not use these shards")
        return self.folder / f"{name}.lock"

    def _partial(self, name: str) -> Path:
        return self.folder / f"{name}.partial"


def _recorded_sha256(lock: int) -> str:
    return os.pread(lock, 64, 0).decode("ascii", "replace")


def _note_use(lock: int, sha256: str) -> None:
    if _recorded_sha256(lock) != sha256:
        os.ftruncate(lock, 0)
        os.pwrite(lock, sha256.encode("ascii"), 0)
    now = time.time_ns()  # the kernel's own timestamps are accurate to some milliseconds only
    os.utime(lock, ns=(now, now))
