"""Where this rank is, as it says itself: the step, the phase, and that it gets ahead. The watchdog reads it.

To say it costs an assignment, with no lock and no clock. Every rank goes through the same phases in the same
order, so the number of phases entered tells who is behind. Forked loader workers share the count of `advance`.
"""

import mmap
from typing import NamedTuple


class Place(NamedTuple):
    """A rank's place in the run."""

    step: int
    """The optimizer step in work, counted from 1; 0 before the first."""
    phase: str
    """What the rank does, in words that go on with "at step 3, "."""
    entered: int
    """Phases entered since the process began."""


def _new_count() -> memoryview:
    """Anonymous and shared memory: a forked process writes into the same page."""
    return memoryview(mmap.mmap(-1, mmap.PAGESIZE))[:8].cast("Q")


_count = _new_count()
_place = Place(0, "starting", 0)


def begin() -> None:
    """This process is a rank from here on, and shares its count with workers that it forks, not with other ranks."""
    global _count, _place
    _count, _place = _new_count(), Place(0, "joining the other ranks", 0)


def enter(phase: str, step: int | None = None) -> None:
    """This rank begins a phase; without `step` in the same step as before (all ranks, in the same order)."""
    global _place
    _place = Place(_place.step if step is None else step, phase, _place.entered + 1)


def advance() -> None:
    """A piece of a long phase is done: this rank, or a worker forked from it, is slow and not stuck."""
    _count[0] += 1  # two at once may count as one, which is still progress


def where() -> tuple[Place, int]:
    """This rank's place and the count of pieces; something of it changes as long as the rank gets ahead."""
    return _place, _count[0]
