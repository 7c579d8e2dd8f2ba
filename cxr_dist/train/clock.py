"""Where the time of the training loop goes: seconds per lap, and those of them that waited for data."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple


class Lap(NamedTuple):
    """What happened between two log lines."""

    steps: int
    seconds: float
    """Wall time, without validation, saving and the writing of a profile."""
    waited: float
    """Seconds of them that waited for data."""


class Clock:
    """Wall time between two log lines, without what is paused for."""

    def __init__(self) -> None:
        self.start(0)

    def start(self, step: int) -> None:
        """Begin a lap after this step."""
        self._started, self._waited, self._step = time.perf_counter(), 0.0, step

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A block that waits for data."""
        before = time.perf_counter()
        yield
        self._waited += time.perf_counter() - before

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A block that does not count."""
        before = time.perf_counter()
        yield
        self._started += time.perf_counter() - before

    def lap(self, step: int) -> Lap:
        """End this lap after `step`, and begin the next."""
        lap = Lap(step - self._step, time.perf_counter() - self._started, self._waited)
        self.start(step)
        return lap
