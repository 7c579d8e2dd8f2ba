"""Apply a function to a stream of items in several processes; the results keep the order of the items.

Items are sent in units of a few. About two units per worker are in flight, so that memory does not grow with the data.
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

_Item = TypeVar("_Item")
Result = TypeVar("Result")


def in_order(function: Callable[[_Item], Result], items: Iterable[_Item], workers: int, unit: int) -> Iterator[Result]:
    """Yield `function` of each item, computed by `workers` processes, `unit` items at a time; 0 uses this process.

    Function, items and results must be picklable. Raises UserError if a worker process was killed.
    """
    if workers == 0:
        yield from map(function, items)
        return
    items = iter(items)
    pending: deque[Future[list[Result]]] = deque()
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_start_worker)
    try:
        while batch := list(islice(items, unit)):
            pending.append(pool.submit(_each, function, batch))
            if len(pending) > 2 * workers:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
    except BrokenProcessPool:
        raise UserError(
            f"a worker process was killed, possibly because memory ran out: use fewer --workers than {workers}"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    cv2.setNumThreads(0)  # the processes already use all cores
    # Ctrl-C and SLURM's warning reach all processes of a task; only the parent handles them, and it ends the pool.
    for number in (signal.SIGINT, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when its parent dies: otherwise it would wait for work forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _each(function: Callable[[_Item], Result], items: list[_Item]) -> list[Result]:
    return [function(item) for item in items]
