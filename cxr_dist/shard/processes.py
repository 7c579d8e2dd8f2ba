"""Work over processes: an ordered stream in, the results out in the same order, whatever the number of workers.

A unit of work is a few items; about two units per worker are in flight, so memory does not grow with the data.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import TypeVar

import cv2

from cxr_dist.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int, unit: int
) -> Iterator[Result]:
    """`function` of each item, `unit` items at a time, in `workers` processes; 0 for none but this one.

    Function, items and results are sent between processes. Raises UserError where a process was killed.
    """
    if workers == 0:
        yield from map(function, items)
        return
    items = iter(items)
    pending: deque[Future[list[Result]]] = deque()
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_start_worker)
    try:
        while some := list(islice(items, unit)):
            pending.append(pool.submit(_each, function, some))
            if len(pending) > 2 * workers:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
    except BrokenProcessPool:
        raise UserError(
            f"a worker process was killed, perhaps for want of memory: use fewer --workers than {workers}"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    cv2.setNumThreads(0)  # the processes are the parallelism
    # Ctrl-C, and SLURM's warning to all processes of a task, are for the parent, which ends the pool.
    for number in (signal.SIGINT, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A pool's workers outlive a parent that was killed, waiting for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _each(function: Callable[[Item], Result], items: list[Item]) -> list[Result]:
    return [function(item) for item in items]
