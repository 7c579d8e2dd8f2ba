"""Ways to start a training run under different launchers, and the seconds of each phase of the start."""

import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.harness import ROOT
from cxr_dist.distributed.watch.progress import began, read_starts

Seconds = dict[str, float]
Start = Callable[[tuple[str, ...], Path], Seconds]
PLAIN = [sys.executable]
CPU2 = str(ROOT / "launch" / "accelerate" / "cpu2.yaml")
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", CPU2]


def srun(nodes: int) -> list[str]:
    """The srun command for two tasks of one core each on every node."""
    return ["srun", f"--nodes={nodes}", "--ntasks-per-node=2", "--cpus-per-task=1", sys.executable]


def starting(launcher: list[str], shards: Path, environment: dict[str, str]) -> Start:
    """A function that starts `cxr-dist train` under a launcher and returns the seconds of each phase."""

    def start(flags: tuple[str, ...], run_dir: Path) -> Seconds:
        train = ["-m", "cxr_dist", "train", *flags, "--data.shards", str(shards), "--out", str(run_dir)]
        return started([*launcher, *train], run_dir, environment)

    return start


def started(command: list[str], run_dir: Path, environment: dict[str, str]) -> Seconds:
    """Run a command that trains in `run_dir`; returns the seconds of each phase of its start."""
    before, known = time.time(), len(read_starts(run_dir))
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    lines = read_starts(run_dir)
    if len(lines) != known + 1:
        raise RuntimeError(f"no first step: {' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return phases(lines[-1], before)


def phases(line: dict[str, Any], launched: float) -> Seconds:
    """The phases of a line of startup.jsonl, preceded by `launch`; `launched` is in Unix seconds."""
    waited = began(line) - launched
    return {"launch": waited, **line["seconds"], "total": line["total"] + waited}


@contextmanager
def slurm() -> Iterator[dict[str, str] | None]:
    """The environment of a SLURM cluster with two nodes on this machine; None if it is not available."""
    sys.path.insert(0, str(ROOT / "tests" / "slurm"))
    from cluster import missing, running_cluster

    if lacks := missing():
        print(f"not measured under SLURM: {lacks}")
        yield None
        return
    with running_cluster() as cluster:
        yield cluster.environment


def medians(turns: list[Seconds]) -> Seconds:
    """The median of each phase and of the total."""
    values: dict[str, list[float]] = defaultdict(list)
    for turn in turns:
        for phase, seconds in turn.items():
            values[phase].append(seconds)
    return harness.medians(values)
