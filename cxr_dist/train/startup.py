"""What a start of a run spends before its first step is done: phases in, a line of startup.jsonl out.

Imports nothing but the standard library: the first phases are over before torch is there. Each rank keeps its own
times; rank 0's are written, so they hold its waiting for the others.
"""

import datetime
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cxr_dist.distributed.world import World

Finish = Callable[[], object]
Say = Callable[[str], None]
_FILE = "startup.jsonl"
_seconds: dict[str, float] | None = None  # by phase; None outside a start
_began = _last = 0.0


def begin() -> None:
    """A command that trains has begun: what was before, from the process's birth on, is the phase `python`."""
    global _seconds, _began, _last
    _began = _last = _birth()
    _seconds = {}
    reached("python")


def reached(phase: str) -> None:
    """A phase is over, and the next one begins; does nothing outside a start."""
    global _last
    if _seconds is not None:
        now = time.time()
        _seconds[phase] = _seconds.get(phase, 0.0) + now - _last
        _last = now


def first_step_done(run_dir: Path, step: int, world: World, finish: Finish, say: Say) -> None:
    """Once in a start: wait with `finish` until the device is done, write what the start took, and say it (rank 0)."""
    global _seconds
    if _seconds is None:
        return
    finish()
    reached("first step")
    seconds, _seconds = _seconds, None
    if not world.is_main:
        return
    total = sum(seconds.values())
    birth = datetime.datetime.fromtimestamp(_began, datetime.UTC).isoformat(timespec="milliseconds")
    line = {"began": birth, "step": step, "world_size": world.world_size, "total": round(total, 3)}
    with (run_dir / _FILE).open("a", encoding="utf-8") as file:
        rounded = {phase: round(value, 3) for phase, value in seconds.items()}
        file.write(json.dumps(line | {"seconds": rounded}) + "\n")
    phases = ", ".join(f"{phase} {value:.1f}" for phase, value in seconds.items())
    say(f"first step after {total:.1f} s: {phases}")


def read(run_dir: Path) -> list[dict[str, Any]]:
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
