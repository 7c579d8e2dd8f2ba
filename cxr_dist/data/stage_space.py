"""Manage the disk space of staged shards: reserve space for a copy, and delete other shards to make room.

All data sets staged under one root share its limit. Shards that no process has open are deleted first, least recently
used first. A process that reads a deleted file keeps its bytes on the disk until it closes the file, so the limit may
be exceeded by the size of the shards that are being read.
"""

import fcntl
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from cxr_dist.data.origin import no_space
from cxr_dist.files import locked, take_lock

_SPARE_SHARE = 0.05  # of the disk, left to other jobs on the node


@dataclass(frozen=True, kw_only=True)
class StageSpace:
    """The space under ROOT/*/. If `limit_bytes` is 0, only the size of the disk limits it."""

    root: Path
    limit_bytes: int

    def reserve(self, name: str, folder: Path, size: int, *, unused_since: int | None = None) -> bool:
        """Free `size` bytes for a shard and record the reservation in FOLDER/NAME.reserved.

        The caller holds the shard's lock and later calls `publish` or `release`. With `unused_since` (nanoseconds
        since the epoch) it deletes only shards that no process has open or has used since then. Returns False and
        deletes nothing if there is not enough space now. Raises UserError if waiting for other copies cannot help.
        """
        with locked(self.root / "space.lock"):
            self.release(name, folder)  # remains of a process that was killed while copying
            missing, reserved = self._missing(size)
            victims = self._victims(missing, unused_since)
            if missing > sum(map(_size, victims)):
                if unused_since is None and not reserved:
                    raise no_space(name)
                return False
            for victim in victims:
                victim.unlink()
            # A sparse file of this size tells other processes how many bytes the copy will need.
            with (folder / f"{name}.reserved").open("wb") as note:
                note.truncate(size)
            return True

    def publish(self, name: str, folder: Path) -> None:
        """Rename a complete, checked copy to its final name."""
        with locked(self.root / "space.lock"):
            (folder / f"{name}.partial").replace(folder / name)
            self.release(name, folder)

    def release(self, name: str, folder: Path) -> None:
        """Give up a reservation and remove the unfinished copy, if there is one."""
        (folder / f"{name}.partial").unlink(missing_ok=True)
        (folder / f"{name}.reserved").unlink(missing_ok=True)

    def _missing(self, size: int) -> tuple[int, int]:
        """Bytes to delete so that `size` more fit (none if 0 or less), and bytes reserved for unfinished copies."""
        disk, reserved, written = shutil.disk_usage(self.root), 0, 0
        for note in self.root.glob("*/*.reserved"):
            with locked(note.with_suffix(".lock"), wait=False) as mine:
                if mine is not None:
                    self.release(note.stem, note.parent)  # the process that made the copy was killed
            reserved += _size(note)
            written += _size(note.with_suffix(".partial"))
        free = disk.free - int(_SPARE_SHARE * disk.total) - max(0, reserved - written)
        staged = sum(map(_size, self.root.glob("*/*.tar")))
        over_limit = staged + reserved + size - self.limit_bytes if self.limit_bytes else 0
        return max(over_limit, size - free), reserved

    def _victims(self, missing: int, unused_since: int | None) -> list[Path]:
        """The shards to delete to free `missing` bytes, or all that may be deleted if they are too few."""
        if missing <= 0:
            return []
        candidates = [(_is_read(shard), _last_use(shard), shard) for shard in self.root.glob("*/*.tar")]
        chosen: list[Path] = []
        for is_read, last_use, shard in sorted(candidates):
            allowed = unused_since is None or (not is_read and last_use < unused_since)
            if missing > 0 and allowed:
                chosen.append(shard)
                missing -= _size(shard)
        return chosen


def _last_use(shard: Path) -> int:
    """When the shard was last used; 0 if that is unknown, as for a time in the future: the clock was set back since."""
    lock = shard.with_name(f"{shard.name}.lock")
    last_use = lock.stat().st_mtime_ns if lock.exists() else 0
    return last_use if last_use <= time.time_ns() else 0


def _size(path: Path) -> int:
    """Size in bytes, 0 if another process has removed the file meanwhile."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _is_read(shard: Path) -> bool:
    """Whether a process has the shard open, and so holds a shared lock on it."""
    descriptor = os.open(shard, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return not take_lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)
