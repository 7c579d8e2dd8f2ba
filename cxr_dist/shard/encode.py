"""Films into JPEG bytes over processes: an ordered stream in, the same order out, whatever the number of workers.

A unit of work is a few films; about two units per worker are in flight, so memory does not grow with the data.
"""

import multiprocessing
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice

import cv2

from cxr_dist.errors import UserError
from cxr_dist.shard.image import encode_jpeg, shrink
from cxr_dist.shard.left_out import ImageProblem
from cxr_dist.shard.recipe import ImageFormat
from cxr_dist.shard.record import Pixels

_CHUNK = 16  # films per unit of work

Encoded = bytes | ImageProblem


def encode_all(films: Iterable[Pixels], image: ImageFormat, workers: int) -> Iterator[Encoded]:
    """One JPEG, or the problem with it, per film; `workers` processes, 0 for none but this one."""
    if workers == 0:
        yield from (_encode(film, image) for film in films)
        return
    films = iter(films)
    pending: deque[Future[list[Encoded]]] = deque()
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_start_worker)
    try:
        while chunk := list(islice(films, _CHUNK)):
            pending.append(pool.submit(_encode_chunk, chunk, image))
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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends the pool


def _encode_chunk(films: list[Pixels], image: ImageFormat) -> list[Encoded]:
    return [_encode(film, image) for film in films]


def _encode(film: Pixels, image: ImageFormat) -> Encoded:
    try:
        return encode_jpeg(shrink(film.read(image.short_side), image.short_side), image.quality)
    except ImageProblem as problem:
        return problem
