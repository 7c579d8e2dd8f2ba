"""Where this rank is, as it says itself: the step, the phase, and that it gets ahead; and how long its start took.

The watchdog reads the place. To enter a phase costs an assignment and, until the first step is done, a reading of the
clock: there is no lock. Every rank goes through the same phases in the same order, so that the number of phases entered
tells who is behind. Forked loader workers share the count of `advance`.

The phases of a start are timed from the birth of the process on, and rank 0 writes them as a line of startup.jsonl.
Imports nothing but the standard library, because the first phases are over before torch is imported.
"""

import datetime
import json
import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from cxr_dist.distributed.world import World

_FILE = "startup.jsonl"
_STARTUP = {
    "importing torch": "imports",
    "checking the configuration": "checks",
    "joining the other ranks": "meeting",
    "preparing the run": "run folder",
    "choosing the gradient checkpointing": "gradient checkpointing",
    "building the model": "model",
    "loading the weights": "weights",
    "restoring": "restoring",
    "waiting for data": "first batch",
    "forward and backward": "first step",
}
"""Phases with a time of their own in startup.jsonl, and its names for them. Any other is part of the one before."""


class Place(NamedTuple):
    """A rank's place in the run."""

    step: int
    """The optimizer step in work, counted from 1; 0 before the first."""
    phase: str
    """What the rank does, in words that go on with "at step 3, "."""
    entered: int
    """Phases entered since the rank joined the others."""


class _Start:
    """The seconds of a start by phase, in the order in which they were first entered."""

    def __init__(self) -> None:
        self.began = self._entered = _birth()
        self._phase, self.seconds = "python", {"python": 0.0}

    def enter(self, phase: str) -> None:
        now = time.time()
        self.seconds[self._phase] += now - self._entered
        self._phase, self._entered = phase, now
        self.seconds.setdefault(phase, 0.0)


def _new_count() -> memoryview:
    """Anonymous and shared memory: a forked process writes into the same page."""
    return memoryview(mmap.mmap(-1, mmap.PAGESIZE))[:8].cast("Q")


_count = _new_count()
_place = Place(0, "starting", 0)
_start: _Start | None = None  # until the first step is done


def start_clock() -> None:
    """A command that trains begins to import torch; all before, from the process's birth on, is the phase `python`."""
    global _start
    _start = _Start()
    enter("importing torch")


def join() -> None:
    """This process is a rank from here on, and shares its count with workers that it forks, not with other ranks."""
    global _count, _place
    enter("joining the other ranks", 0)
    _count, _place = _new_count(), _place._replace(entered=0)


def enter(phase: str, step: int | None = None) -> None:
    """This rank begins a phase; without `step` in the same step as before (all ranks, in the same order)."""
    global _place
    _place = Place(_place.step if step is None else step, phase, _place.entered + 1)
    if _start is not None and phase in _STARTUP:
        _start.enter(_STARTUP[phase])


def advance() -> None:
    """A piece of a long phase is done: this rank, or a worker forked from it, is slow and not stuck."""
    _count[0] += 1  # two at once may count as one, which is still progress


def where() -> tuple[Place, int]:
    """This rank's place and the count of pieces; something of it changes as long as the rank gets ahead."""
    return _place, _count[0]


def first_step_done(
    run_dir: Path, step: int, world: World, finish: Callable[[], object], say: Callable[[str], None]
) -> None:
    """Once in a start: wait with `finish` until the device is done, write what the start took, and say it (rank 0).

    Each rank keeps its own times; rank 0's are written, so that they hold its waiting for the others.
    """
    global _start
    if _start is None:
        return
    _start.enter("first step")
    finish()
    _start.enter("first step")  # adds what `finish` took
    ended, _start = _start, None
    if not world.is_main:
        return
    total = sum(ended.seconds.values())
    birth = datetime.datetime.fromtimestamp(ended.began, datetime.UTC).isoformat(timespec="milliseconds")
    line = {"began": birth, "step": step, "world_size": world.world_size, "total": round(total, 3)}
    with (run_dir / _FILE).open("a", encoding="utf-8") as file:
        rounded = {phase: round(value, 3) for phase, value in ended.seconds.items()}
        file.write(json.dumps(line | {"seconds": rounded}) + "\n")
    phases = ", ".join(f"{phase} {value:.1f}" for phase, value in ended.seconds.items())
    say(f"first step after {total:.1f} s: {phases}")


def read_starts(run_dir: Path) -> list[dict[str, Any]]:
    """All lines, oldest first: began (UTC), step, world_size, total and seconds by phase."""
    path = run_dir / _FILE
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def began(line: dict[str, Any]) -> float:
    """When the process of a line was made, Unix seconds."""
    return datetime.datetime.fromisoformat(line["began"]).timestamp()


def _birth() -> float:
    """When this process was made, Unix seconds to the kernel's tick (10 ms); now, where there is no /proc."""
    try:
        stat, uptime = Path("/proc/self/stat").read_text(), Path("/proc/uptime").read_text()
    except OSError:
        return time.time()
    ticks = int(stat.rpartition(")")[2].split()[19])
    return time.time() - (float(uptime.split()[0]) - ticks / os.sysconf("SC_CLK_TCK"))
