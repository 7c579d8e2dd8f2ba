"""The worker processes of a loader: what they do first, and that they end.

They end with the loader that started them, and with the process, whatever ends it. Other children of the process are
not touched, because it may be a program that uses this package beside other things.
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

T = TypeVar("T")
_PR_SET_PDEATHSIG = 1
_BEFORE_ALL_ELSE = 100  # of multiprocessing's own priorities at exit the highest is 15

_FILES_OF_BATCHES = (
    56  # that a worker has open for batches on their way: seven of eight tensors; 42 were measured
)


def check_open_files(workers: int) -> None:
    """Raise UserError where a worker could run out of descriptors.

    It would lose the batch that it could not send, and the training process would wait for it without end.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = len(os.listdir("/dev/fd")) + 4 * workers + OPEN_SHARDS + _FILES_OF_BATCHES
    require(
        not workers or limit >= needed or limit == resource.RLIM_INFINITY,
        f"a loader worker may have {needed} files open at once, and the limit is {limit}: raise it before the command "
        "with `ulimit -n NUMBER`, or set --data.workers 0",
    )


def start_worker(worker: int) -> None:
    """In a loader worker: leave signals to the training process, which must save first; one thread each."""
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(name, signal.SIG_IGN)
    end_with_parent()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def end_with_parent() -> None:
    """In a forked worker, on Linux: be killed when the thread that forked it ends, however that happens.

    torch's DataLoader workers look for their parent only between two batches, and every 5 s.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        parent = multiprocessing.parent_process()
        if parent is not None and os.getppid() != parent.pid:  # it ended before
            os._exit(1)


def ending_its_workers(loader: DataLoader[T]) -> Iterator[T]:
    """The loader's iterator; its workers are killed when it is forgotten, or where this process exits before.

    They ignore TERM, by which multiprocessing ends daemonic processes at exit, and then it would wait for ever.
    """
    iterator = iter(loader)
    if isinstance(iterator, _MultiProcessingDataLoaderIter):
        # Not weakref.finalize: at exit it may run after multiprocessing has begun to wait, and it runs in forked
        # processes too.
        Finalize(iterator, _end, (id(iterator), iterator._workers), exitpriority=_BEFORE_ALL_ELSE)
    return iterator


def _end(owner: int, workers: Sequence[BaseProcess]) -> None:
    alive = [worker for worker in workers if worker.is_alive()]
    if alive:
        # torch's handler of SIGCHLD would raise an error for a worker that it knows of.
        with contextlib.suppress(ValueError):
            torch._C._remove_worker_pids(owner)
    for worker in alive:
        worker.kill()
