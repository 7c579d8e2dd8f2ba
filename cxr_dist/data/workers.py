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

from cxr_dist.data.batch import Batch
from cxr_dist.data.store import OPEN_SHARDS
from cxr_dist.errors import UserError, out_of_files, require

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


def in_shared_memory(batch: Batch) -> Batch:
    """Move a batch to /dev/shm, in a worker. Raises UserError if there is no space left.

    torch would do it later, in a thread whose error loses the batch, and the training process would wait forever.
    """
    try:
        return batch.share_memory()
    except RuntimeError as error:
        if out_of_files(error) or "shared memory" not in str(error):
            raise
        raise UserError(
            "no space left in /dev/shm, through which loader workers pass their batches: enlarge it (containers: "
            "--shm-size), or lower --data.workers"
        ) from None


@contextlib.contextmanager
def naming_dead_workers(iterator: Iterator[_Item]) -> Iterator[None]:
    """Name the worker that died, if the loader's iterator raises an error inside the block because of that.

    torch's own error is one of a broken connection, or names only a process id.
    """
    try:
        yield
    except (RuntimeError, OSError, EOFError) as error:
        workers = iterator._workers if isinstance(iterator, _MultiProcessingDataLoaderIter) else []
        died = next((number for number, worker in enumerate(workers) if _died(worker)), None)
        if died is None:
            raise
        raise RuntimeError(
            f"loader worker {died} (pid {workers[died].pid}) {_how(workers[died].exitcode)}. If nobody killed it, the "
            "machine had no memory left for it, or /dev/shm had none: lower --data.workers"
        ) from error


def _died(worker: BaseProcess) -> bool:
    worker.join(timeout=0.2)  # the kernel may report a closed connection before the end of the process
    return not worker.is_alive()


def _how(status: int | None) -> str:
    if status is None or status >= 0:
        return f"ended with status {status}"
    return f"was killed by {signal.Signals(-status).name}"


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
