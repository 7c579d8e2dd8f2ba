"""One process at a time: a lock on a file, which the kernel releases however its holder ends.

So there is no stale lock to clean up after `kill -9`. The file itself stays: unlinking it would let two
processes hold "the" lock on two files of one name.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cxr_dist.errors import UserError


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[int | None]:
    """Hold the exclusive lock of a file, made where it is absent, among processes and threads of this node.

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
