"""Progress on standard error: a bar with count, rate and remaining time on a terminal, else a plain line now and then.

A job's log gets a line a minute and no carriage returns, and a command of less than a minute leaves none there.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

_LINE_SECONDS = 60.0


class Advance(Protocol):
    """Function to call with what has been done since the last call."""

    def __call__(self, done: int = 1) -> None: ...


class _RateColumn(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_speed or task.speed or 0:,.0f} {self._unit}/s", style="progress.data.speed")


class _Lines:
    """Prints a line with the remaining time, at most once in `_LINE_SECONDS`."""

    def __init__(self, title: str, total: int, unit: str, console: Console) -> None:
        self._title, self._total, self._unit, self._console = title, total, unit, console
        self._done, self._started = 0, time.monotonic()
        self._printed = self._started

    def advance(self, done: int = 1) -> None:
        self._done, now = self._done + done, time.monotonic()
        if now - self._printed < _LINE_SECONDS:
            return
        self._printed = now
        seconds = round((now - self._started) * (self._total - self._done) / max(1, self._done))
        left = f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} left"
        line = f"{self._title}: {self._done} of {self._total} {self._unit}, {left}"
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def image_progress(title: str, total: int, unit: str = "images") -> Iterator[Advance]:
    """Show the progress of the block on standard error; yields a function to call with what is done since."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(title, total, unit, console).advance
        return
    columns = (TextColumn(title), BarColumn(None), MofNCompleteColumn(), _RateColumn(unit), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=total)
        yield lambda done=1: progress.advance(task, done)
