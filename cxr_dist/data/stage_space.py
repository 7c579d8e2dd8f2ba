"""Room for staged shards on one disk: what is there, what is being copied, and what is deleted to make place.

All data sets staged under one root share its limit. The least recently used shard goes first, one that no
process has open before one that is read; a reader of a deleted file keeps its open descriptor, and with it
the bytes, until it closes it. So the limit is passed by no more than what is being read.
"""

import fcntl
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from cxr_dist.data.origin import no_space
from cxr_dist.files import locked, take_lock

_SPARE_SHARE = 0.05  # of the disk: left to the other jobs of the node


@dataclass(frozen=True, kw_only=True)
class StageSpace:
    """The room under ROOT/*/; `limit_bytes` 0 leaves only the disk's own limit."""

    root: Path
    limit_bytes: int

    def reserve(self, name: str, folder: Path, size: int, *, unused_since: int | None = None) -> bool:
        """Make room for `size` bytes of a shard, and note them in FOLDER/NAME.reserved.

        The caller holds the shard's lock, and ends with `publish` or `release`. With `unused_since` (nanoseconds
        of the epoch) only shards go that no process has open and none has used since. False, with nothing
        deleted, where that is not enough, or copies under way hold the room; UserError where no waiting helps.
        """
        with locked(self.root / "space.lock"):
            self.release(name, folder)  # of a copier that was killed
            missing, reserved = self._missing(size)
            victims = self._victims(missing, unused_since)
            if missing > sum(map(_size, victims)):
                if unused_since is None and not reserved:
                    raise no_space(name)
                return False
            for victim in victims:
                victim.unlink()
            # A sparse file of the size: what a process has yet to write is counted by those that come meanwhile.
            with (folder / f"{name}.reserved").open("wb") as note:
                note.truncate(size)
            return True

    def publish(self, name: str, folder: Path) -> None:
        """Give the whole and checked copy its name."""
        with locked(self.root / "space.lock"):
            (folder / f"{name}.partial").replace(folder / name)
            self.release(name, folder)

    def release(self, name: str, folder: Path) -> None:
        """End of a copy, whole or not."""
        (folder / f"{name}.partial").unlink(missing_ok=True)
        (folder / f"{name}.reserved").unlink(missing_ok=True)

    def _missing(self, size: int) -> tuple[int, int]:
        """Bytes that must go before `size` more have room (0 or less: none), and bytes that copies under way hold."""
        disk, reserved, written = shutil.disk_usage(self.root), 0, 0
        for note in self.root.glob("*/*.reserved"):
            with locked(note.with_suffix(".lock"), wait=False) as mine:
                if mine is not None:
                    self.release(note.stem, note.parent)  # its copier was killed
            reserved += _size(note)
            written += _size(note.with_suffix(".partial"))
        free = disk.free - int(_SPARE_SHARE * disk.total) - max(0, reserved - written)
        staged = sum(map(_size, self.root.glob("*/*.tar")))
        over_limit = staged + reserved + size - self.limit_bytes if self.limit_bytes else 0
        return max(over_limit, size - free), reserved

    def _victims(self, missing: int, unused_since: int | None) -> list[Path]:
        """The shards to delete for so many bytes, as far as they go."""
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
    lock = shard.with_name(f"{shard.name}.lock")
    return lock.stat().st_mtime_ns if lock.exists() else 0


def _size(path: Path) -> int:
    """Bytes; 0 where it is gone: a copy may be given up at any moment."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _is_read(shard: Path) -> bool:
    """Whether a process has the shard open: readers hold a shared lock on it."""
    descriptor = os.open(shard, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return not take_lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)
