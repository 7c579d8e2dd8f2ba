"""Where the time of the training loop goes: seconds per lap, and the share that waited for data."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Wall time between two log lines, without validation and saving."""

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

    def lap(self, step: int) -> tuple[float, float]:
        """(steps per second, share of the time spent waiting for data) since the last lap."""
        seconds = time.perf_counter() - self._started
        result = (step - self._step) / seconds, self._waited / seconds
        self.start(step)
        return result
