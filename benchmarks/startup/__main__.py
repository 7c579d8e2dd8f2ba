"""Measure the start of a run by phase, from the command to the end of the first step.

    python -m benchmarks.startup [--turns 2]

The times are those that rank 0 of the run records in startup.jsonl; `launch` is the time from the start of the
launcher to the start of rank 0's process. The demo's network is started as a plain process, by `accelerate launch`
with two ranks, and by `srun` on one and two nodes of a SLURM cluster on this machine, if it is installed
(tests/slurm/cluster.py). The enhanced model at full size, with a bundle of random weights, is started and resumed as a
plain process. The times of `cxr-dist --help` and of the largest imports are measured too. Writes
benchmarks/results/startup.json.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from benchmarks import page
from benchmarks.films import make_shards
from benchmarks.harness import arguments, this_device, timed, write_result
from benchmarks.startup.ways import ACCELERATE, PLAIN, Seconds, medians, slurm, srun, starting
from benchmarks.startup.weights import write_bundle

HELP_TARGET_SECONDS = 0.3
IMPORTS = (
    "torch",
    "torchvision",
    "transformers",
    "accelerate",
    "deepspeed",
    "cxr_dist",
    "cxr_dist.train.assembly",
)
# There are four lanes, one for each rank on two nodes.
SMALL = ("demo", "--data.workers", "1", "--data.micro-batch", "8", "--train.max-steps", "1")
# The time limit ends the run after one step, so that the same command resumes it with the next step.
LARGE = (  # noqa: SIM905  (a command line reads better)
    "enhanced --data.workers 2 --data.global-batch 4 --data.micro-batch 2 --train.max-minutes 0.0001"
).split()


def starts(folder: Path, turns: int) -> dict[str, Seconds]:
    """The median seconds of each phase, for every way to start."""
    shards = make_shards(folder, studies=120, side=256, train=0.6, quality=90, per_shard=20)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CXR_DIST_WEIGHTS": str(folder / "bundle")}
    found: dict[str, list[Seconds]] = defaultdict(list)
    with ExitStack() as stack:
        ways = {"plain": starting(PLAIN, shards, environment)}
        if find_spec("accelerate"):
            ways["accelerate, 2 ranks"] = starting(ACCELERATE, shards, environment)
        if cluster := stack.enter_context(slurm()):
            for nodes in (1, 2):
                ways[f"srun, {nodes} × 2 ranks"] = starting(srun(nodes), shards, environment | cluster)
        for turn in range(turns):
            for number, (way, start) in enumerate(ways.items()):
                found[way].append(start(SMALL, folder / f"small-{turn}-{number}"))
        write_bundle(folder / "bundle")
        for turn in range(turns):
            for kind in ("plain, full size", "plain, full size, resumed"):
                found[kind].append(ways["plain"](tuple(LARGE), folder / f"large-{turn}"))
    return {way: medians(each) for way, each in found.items()}


def command_seconds(command: list[str], turns: int) -> float:
    """Median wall time of a command, without its first run, which fills the disk's cache."""
    run = partial(subprocess.run, command, check=True, stdout=subprocess.DEVNULL)
    return statistics.median([timed(run) for _ in range(1 + turns)][1:])


def commands(turns: int) -> Seconds:
    """Seconds of the command line's help, and of imports in new processes."""
    seconds = {"cxr-dist --help": command_seconds([sys.executable, "-m", "cxr_dist", "--help"], 3 * turns)}
    seconds["python"] = command_seconds([sys.executable, "-c", "pass"], 3 * turns)
    for name in filter(find_spec, IMPORTS):
        seconds[f"import {name}"] = command_seconds([sys.executable, "-c", f"import {name}"], turns)
    return seconds


def main() -> None:
    """Measure, print and write the result."""
    options = arguments(__doc__, turns=2)
    ready = commands(options.turns)
    with tempfile.TemporaryDirectory() as folder:
        found = starts(Path(folder), options.turns)
    what = "from the command to the first step, seconds by phase"
    results = {"commands": ready, "help_target_seconds": HELP_TARGET_SECONDS, "starts": found}
    write_result("startup", what, options, this_device(), **results)
    page.show("startup", this_device().type)
    print(f"target of --help: at most {HELP_TARGET_SECONDS} s")


if __name__ == "__main__":
    main()
