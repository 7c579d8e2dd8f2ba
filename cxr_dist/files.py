"""Write files and folders so that they are either complete or absent, and lock files.

The content is written under a temporary name in the same folder, fsynced and renamed, so that a process killed while
writing leaves no damaged file under the final name.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any, BinaryIO

from cxr_dist.errors import UserError, out_of_files

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def full_disk_says(message: str) -> Iterator[None]:
    """Turn errors of a full disk or an exhausted quota inside the block into a UserError with this message."""
    try:
        yield
    except Exception as error:
        # safetensors raises its own type of error without an errno, which only its text identifies.
        if getattr(error, "errno", None) in _FULL or any(f"(os error {n})" in str(error) for n in _FULL):
            raise UserError(message) from None
        raise


@contextmanager
def whole_file(path: Path, mode: int = 0o644) -> Iterator[BinaryIO]:
    """Open a file for writing that appears under `path` only if the block ends without an error.

    Raises UserError if the disk is full, and then leaves nothing behind.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    if_full = f"no space left to write {path.name}: free some, or choose another folder; earlier files are complete"
    try:
        with full_disk_says(if_full):
            with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
    except BaseException:
        with suppress(OSError):  # such as a file system that has become read-only; the first error is the one to show
            aside.unlink(missing_ok=True)
        raise


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a small file completely or not at all."""
    with whole_file(path) as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading; raises OSError for anything else.

    A FIFO, socket or device could block for ever, never end, or do something when it is opened, so it is not opened.
    """
    return open(regular_descriptor(path), "rb")


def regular_descriptor(path: Path) -> int:
    """Do the same as `open_regular`, without a file object."""
    _check_regular(path.stat())
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _check_regular(os.fstat(descriptor))  # it may have been replaced in between
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def read_regular(path: Path) -> bytes:
    """Return the bytes of a regular file; raises OSError for anything else."""
    with open_regular(path) as file:
        return file.read()


def _check_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file")


def json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file with one JSON object per line, oldest first; none if there is no such file.

    Lines that a kill cut short, and anything else that is no object, are left out. Raises UserError if the file cannot
    be read.
    """
    try:
        lines = read_regular(path).decode("utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        damaged = UserError(f"{path.name} in {path.parent} cannot be read ({error.strerror}): remove it")
        raise out_of_files(error) or damaged from None
    return [record for line in lines if isinstance(record := _json_or_none(line), dict)]


def _json_or_none(line: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def append_to(path: Path) -> FileIO:
    """Open a regular file, created if absent, to append to without a buffer; raises UserError for anything else."""
    if path.exists() and not path.is_file():
        raise UserError(f"{path.name} in {path.parent} is not a regular file: remove it")
    return open(path, "ab", buffering=0)


def check_writable(folder: Path) -> None:
    """Raise OSError if no file can be written in the folder, or where it would be made: to fail before long work."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    with tempfile.TemporaryFile(dir=there):
        pass


def holds_something(path: Path) -> bool:
    """Whether `path` is a file or a folder that is not empty."""
    return path.exists() and (not path.is_dir() or any(path.iterdir()))


def sync_path(path: Path) -> None:
    """Flush a file's bytes, or the renames inside a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Return the hexadecimal sha256 of a file's bytes; raises OSError for anything but a regular file."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a folder to fill, which appears as `path` (absent or empty so far) only if the block ends without an error.

    Raises UserError if the disk is full, and then leaves nothing behind.
    """
    path = path.resolve()
    if_full = f"no space left to write {path.name}: free some, or choose another folder"
    with full_disk_says(if_full), folder_aside(path) as aside:
        yield aside


@contextmanager
def folder_aside(path: Path) -> Iterator[Path]:
    """Do the same as `whole_folder`, without turning errors into a UserError."""
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
    """Hold an exclusive lock on a file, created if absent, among the processes and threads of this node.

    The kernel releases the lock whenever its holder ends, so that `kill -9` leaves no stale lock. The file itself
    is kept: if it were unlinked, two processes could each lock a different file of the same name.

    Yields the file's descriptor, or None at once if the lock is taken and `wait` is false.
    Raises UserError if the file system does not support locks.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        held = take_lock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield descriptor if held else None
        if held:  # a child forked meanwhile also has the descriptor, so closing ours would not release the lock
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def take_lock(descriptor: int, kind: int) -> bool:
    """Lock an open file (`kind` as for fcntl.flock); return False if LOCK_NB is set and the lock is taken."""
    try:
        fcntl.flock(descriptor, kind)
    except BlockingIOError:
        return False
    except OSError as error:
        raise UserError(
            f"the file system of a shared folder does not support locks ({error.strerror}): choose a folder on a disk "
            "of this node (--data.stage-dir for copies of shards, --out of `cxr-dist fetch` for weights)"
        ) from None
    return True
