"""Record the step and the phase that this rank is in, for the watchdog, and the times of the phases of a start.

All ranks enter the same phases in the same order, so the number of phases entered tells which rank is behind. There is
no lock: entering a phase is an assignment. Forked loader workers share the counter of `advance`. Rank 0 writes the
times of the phases up to the first step, from the start of the process, as a line of startup.jsonl. The module imports
only the standard library, because the first phases end before torch is imported.
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
from cxr_dist.files import append_to, json_lines

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
"""Phase -> its name in startup.jsonl. The time of any other phase is added to the phase before it."""


class Place(NamedTuple):
    """A rank's place in the run."""

    step: int
    """The current optimizer step, counted from 1; 0 before the first step."""
    phase: str
    """What the rank is doing, such as "waiting for data"."""
    entered: int
    """Number of phases entered since the rank joined the others."""


class _Start:
    """The seconds of a start by phase, in the order in which the phases were first entered.

    The clock may be set in between, so phases are timed with the monotonic clock.
    """

    def __init__(self) -> None:
        age = _age()
        self.began, self._entered = time.time() - age, time.monotonic() - age
        self._phase, self.seconds = "python", {"python": 0.0}

    def enter(self, phase: str) -> None:
        now = time.monotonic()
        self.seconds[self._phase] += now - self._entered
        self._phase, self._entered = phase, now
        self.seconds.setdefault(phase, 0.0)


def _new_count() -> memoryview:
    """Allocate a counter in shared memory, to which forked processes can write."""
    return memoryview(mmap.mmap(-1, mmap.PAGESIZE))[:8].cast("Q")


_count = _new_count()
_place = Place(0, "starting", 0)
_start: _Start | None = None  # until the first step is done


def start_clock() -> None:
    """Begin timing a start, before torch is imported; the time since the process started is the phase `python`."""
    global _start
    _start = _Start()
    enter("importing torch")


def join() -> None:
    """Begin counting phases and pieces of work as a rank, with a counter that only its own forked workers share."""
    global _count, _place
    enter("joining the other ranks", 0)
    _count, _place = _new_count(), _place._replace(entered=0)


def enter(phase: str, step: int | None = None) -> None:
    """Begin a phase, in the same step as before if `step` is None (all ranks, in the same order)."""
    global _place
    _place = Place(_place.step if step is None else step, phase, _place.entered + 1)
    if _start is not None and phase in _STARTUP:
        _start.enter(_STARTUP[phase])


def advance() -> None:
    """Report that a piece of a long phase is done, in this rank or in a worker: it is slow, but not stuck."""
    _count[0] += 1  # two processes at the same time may count only one, which is still progress


def where() -> tuple[Place, int]:
    """Return this rank's place and its counter of pieces; either changes as long as the rank makes progress."""
    return _place, _count[0]


def first_step_done(
    run_dir: Path, step: int, world: World, finish: Callable[[], object], say: Callable[[str], None]
) -> None:
    """Write and report the times of the start, after the first step only (all ranks; rank 0 writes).

    `finish` waits for the device and `say` prints a line. The times are rank 0's and include waiting for other ranks.
    """
    global _start
    if _start is None:
        return
    _start.enter("first step")
    finish()
    _start.enter("first step")  # adds the time of `finish`
    ended, _start = _start, None
    if not world.is_main:
        return
    total = sum(ended.seconds.values())
    birth = datetime.datetime.fromtimestamp(ended.began, datetime.UTC).isoformat(timespec="milliseconds")
    line = {"began": birth, "step": step, "world_size": world.world_size, "total": round(total, 3)}
    rounded = {phase: round(value, 3) for phase, value in ended.seconds.items()}
    with append_to(run_dir / _FILE) as file:
        file.write(json.dumps(line | {"seconds": rounded}).encode() + b"\n")
    phases = ", ".join(f"{phase} {value:.1f}" for phase, value in ended.seconds.items())
    say(f"first step after {total:.1f} s: {phases}")


def read_starts(run_dir: Path) -> list[dict[str, Any]]:
    """Return the lines of startup.jsonl, oldest first: began (UTC), step, world_size, total and seconds by phase."""
    return json_lines(run_dir / _FILE)


def began(line: dict[str, Any]) -> float:
    """Return when the process of a line was started, in Unix seconds."""
    return datetime.datetime.fromisoformat(line["began"]).timestamp()


def _age() -> float:
    """Return the seconds since this process was started, to the kernel's tick (10 ms); 0, if there is no /proc."""
    try:
        stat, uptime = Path("/proc/self/stat").read_text(), Path("/proc/uptime").read_text()
    except OSError:
        return 0.0
    ticks = int(stat.rpartition(")")[2].split()[19])
    return float(uptime.split()[0]) - ticks / os.sysconf("SC_CLK_TCK")
