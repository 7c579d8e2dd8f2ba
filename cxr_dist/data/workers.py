"""Start the worker processes of a loader and make sure that they end.

They end with the loader that started them and with their parent process, however that ends. Other child processes are
not touched, because the parent may be any program that uses this package.
"""

import contextlib
import ctypes
import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Iterator, Sequence
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from typing import TypeVar

import cv2
import torch
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from cxr_dist.data.store import OPEN_SHARDS
from cxr_dist.errors import require

_Item = TypeVar("_Item")
_PR_SET_PDEATHSIG = 1
_FIRST_AT_EXIT = 100  # multiprocessing's own exit priorities are 15 at most
_FILES_OF_BATCHES = 56  # open files of a worker for the batches that it has sent: seven batches of eight tensors


def check_open_files(workers: int) -> None:
    """Raise UserError if a worker could run out of file descriptors.

    The worker would lose the batch that it could not send, and the training process would wait for it forever.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = len(os.listdir("/dev/fd")) + 4 * workers + OPEN_SHARDS + _FILES_OF_BATCHES
    require(
        not workers or limit >= needed or limit == resource.RLIM_INFINITY,
        f"a loader worker may have {needed} files open at once, and the limit is {limit}: raise the limit with "
        "`ulimit -n NUMBER` before running the command, or set --data.workers 0",
    )


def start_worker(worker: int) -> None:
    """Prepare a loader worker: ignore signals, so that the training process can save first, and use one thread."""
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(name, signal.SIG_IGN)
    end_with_parent()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def end_with_parent() -> None:
    """Have the kernel kill this forked worker when the thread that forked it ends (on Linux).

    torch's DataLoader workers check for their parent only between two batches.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        parent = multiprocessing.parent_process()
        if parent is not None and os.getppid() != parent.pid:  # the parent has already ended
            os._exit(1)


def ending_its_workers(loader: DataLoader[_Item]) -> Iterator[_Item]:
    """The loader's iterator. Its workers are killed when it is garbage-collected or when this process exits.

    At exit multiprocessing sends SIGTERM to daemonic processes and waits, but the workers ignore SIGTERM.
    """
    iterator = iter(loader)
    if isinstance(iterator, _MultiProcessingDataLoaderIter):
        # weakref.finalize may run after multiprocessing has begun to wait, and also runs in forked processes.
        Finalize(iterator, _kill, (id(iterator), iterator._workers), exitpriority=_FIRST_AT_EXIT)
    return iterator


def _kill(owner: int, workers: Sequence[BaseProcess]) -> None:
    alive = [worker for worker in workers if worker.is_alive()]
    if alive:
        # torch's SIGCHLD handler would raise an error for a worker in its list.
        with contextlib.suppress(ValueError):
            torch._C._remove_worker_pids(owner)
    for worker in alive:
        worker.kill()
