"""Copies of shards on a disk of the node: a shard of a slow or remote place in, an open file of this node out.

    ROOT/cxr_dist-UID/MANIFEST_SHA256/train-00000.tar         whole, and checked against the manifest's sha256
                                      train-00000.tar.lock    held while copying; the digest that was checked;
                                                              its time is that of the last use
                                      train-00000.tar.partial and .reserved: a copy under way

All processes of a user on a node share the copies: one copies, the others wait for its lock. What a sample is
does not depend on any of it. Copies are not fsynced: after a power cut the crc32 of each read tells.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterable
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from cxr_dist.data.origin import fetch
from cxr_dist.data.stage_space import StageSpace
from cxr_dist.data.store import ShardError
from cxr_dist.errors import UserError
from cxr_dist.files import locked, sha256_of, take_lock
from cxr_dist.format.manifest import ShardEntry

_POLL_SECONDS = 0.1  # while copies under way hold the room
_Wanted = tuple[ShardEntry, int]  # and when it was asked for, nanoseconds of the epoch


class StagedShards:
    """The staged shards of one data set. Safe to make before a fork: nothing is open, no thread runs until used."""

    def __init__(self, shards: str, folder: Path, space: StageSpace) -> None:
        self.shards, self.folder, self._space = shards, folder, space
        self._wanted: SimpleQueue[_Wanted | None] | None = None

    def open_tar(self, shard: ShardEntry) -> int:
        """Descriptor of the shard's copy, made or waited for; raises ShardError where it cannot be had.

        It stays good when the copy is deleted to make room.
        """
        with locked(self._lock_of(shard.file)) as lock:
            assert lock is not None
            descriptor = self._found(lock, shard.file, shard.sha256, shard.bytes)
            if descriptor is None:
                while not self._space.reserve(shard.file, self.folder, shard.bytes):
                    time.sleep(_POLL_SECONDS)
                descriptor = self._copied(shard)
            _note_use(lock, shard.sha256)
        take_lock(descriptor, fcntl.LOCK_SH)  # shows that somebody reads it, until it is closed
        return descriptor

    def bring_index(self, shard: ShardEntry) -> None:
        """Have the shard's index in `folder`; of under 1% of the tar's bytes, it is not counted nor deleted."""
        with locked(self._lock_of(shard.index)) as lock:
            assert lock is not None
            descriptor = self._found(lock, shard.index, shard.index_sha256, None)
            if descriptor is None:
                self._fetch_checked(shard.index, shard.index_sha256)
                self._partial(shard.index).replace(self.folder / shard.index)
            else:
                os.close(descriptor)
            _note_use(lock, shard.index_sha256)

    def doubt(self, shard: ShardEntry) -> None:
        """A read of the copy met damage: the next opening checks its sha256 again, and copies where it differs."""
        with locked(self._lock_of(shard.file)) as lock:
            assert lock is not None
            os.ftruncate(lock, 0)

    def prefetch(self, shards: Iterable[ShardEntry]) -> None:
        """Copy shards in the background, in this order, where nobody does yet.

        Only shards go for it that are not read and were last used before this call, so never one another.
        """
        if self._wanted is None:
            self._wanted = SimpleQueue()
            Thread(target=self._prefetch_wanted, args=(self._wanted,), daemon=True, name="stage").start()
        for shard in shards:
            self._wanted.put((shard, time.time_ns()))

    def close(self) -> None:
        """End the background copying after the copy under way."""
        if self._wanted is not None:
            self._wanted.put(None)
            self._wanted = None

    def _prefetch_wanted(self, wanted: SimpleQueue[_Wanted | None]) -> None:
        while (each := wanted.get()) is not None:
            shard, asked = each
            # Whoever reads the shard meets the same error, and raises it there.
            with contextlib.suppress(UserError, OSError):
                self.bring_index(shard)
                self._bring_tar(shard, asked)

    def _bring_tar(self, shard: ShardEntry, asked: int) -> None:
        with locked(self._lock_of(shard.file), wait=False) as lock:
            if lock is None:
                return  # another process copies it: take the next one meanwhile
            descriptor = self._found(lock, shard.file, shard.sha256, shard.bytes)
            if descriptor is None:
                if not self._space.reserve(shard.file, self.folder, shard.bytes, unused_since=asked):
                    return
                descriptor = self._copied(shard)
            os.close(descriptor)
            _note_use(lock, shard.sha256)

    def _found(self, lock: int, name: str, sha256: str, size: int | None) -> int | None:
        """Descriptor of a whole copy that is there; its sha256 is computed once, then the lock file vouches."""
        path = self.folder / name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        whole = size in (None, os.fstat(descriptor).st_size)
        if whole and (_digest_in(lock) == sha256 or sha256_of(path) == sha256):
            return descriptor
        os.close(descriptor)
        return None

    def _copied(self, shard: ShardEntry) -> int:
        """Descriptor of a new copy, for which room is reserved."""
        try:
            self._fetch_checked(shard.file, shard.sha256)
            descriptor = os.open(self._partial(shard.file), os.O_RDONLY | os.O_CLOEXEC)
            self._space.publish(shard.file, self.folder)
            return descriptor
        except BaseException:
            self._space.release(shard.file, self.folder)
            raise

    def _fetch_checked(self, name: str, sha256: str) -> None:
        """Fetch to NAME.partial; what does not come, or comes damaged, is asked for once more."""
        for last in (False, True):
            try:
                fetch(self.shards, name, self._partial(name))
                if sha256_of(self._partial(name)) == sha256:  # of what was written, not of what was received
                    return
                raise ShardError(
                    f"{name} came twice without the sha256 of the manifest: it was damaged or replaced there; "
                    "run `cxr-dist verify` on it, or copy it there again"
                )
            except ShardError:
                if last:
                    raise

    def _lock_of(self, name: str) -> Path:
        if Path(name).name != name or name.startswith("."):
            raise ShardError("the manifest names a shard outside of its folder: do not use these shards")
        return self.folder / f"{name}.lock"

    def _partial(self, name: str) -> Path:
        return self.folder / f"{name}.partial"


def _digest_in(lock: int) -> str:
    return os.pread(lock, 64, 0).decode("ascii", "replace")


def _note_use(lock: int, sha256: str) -> None:
    if _digest_in(lock) != sha256:
        os.ftruncate(lock, 0)
        os.pwrite(lock, sha256.encode("ascii"), 0)
    now = time.time_ns()  # the kernel's own stamps are some milliseconds coarse
    os.utime(lock, ns=(now, now))
