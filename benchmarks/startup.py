"""From the command to the first step: launch, imports, meeting, model, weights, checkpoint, first batch, first step.

    python -m benchmarks.startup [--turns 2]

The times are the runs' own (startup.jsonl, as rank 0 saw them); `launch` is from the launcher's start to the birth of
rank 0's process. Ways: a plain process, `accelerate launch` with two, and `srun` on one and two nodes of a SLURM of
this machine's own, where it is installed (tests/slurm/cluster.py). The demo's network; and the enhanced model at full
size, with weights of random numbers in a bundle, started and resumed, where a GPU's step includes its first kernels.
Also the seconds of `cxr-dist --help` and of the largest imports. Medians go into benchmarks/results/startup.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from benchmarks.hardware import describe_machine, result_path
from benchmarks.startup_weights import write_bundle
from cxr_dist.distributed.watch.progress import began, read_starts
from cxr_dist.shard.recipe import load_recipe
from cxr_dist.shard.write import write_shards

REPOSITORY = Path(__file__).resolve().parents[1]
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
RECIPE = """
reader: demo
demo: {studies: 120, side: 256, seed: 0}
labels: {task: multiclass, classes: {Normal: normal, Effusion: effusion, Other: "*"}}
split: {by: patient, train: 0.6, val: 0.2, test: 0.2, seed: 1}
image: {short_side: 256, quality: 90}
shard: {samples: 20}
"""
# Four lanes, one for each rank on two nodes.
SMALL = ("demo", "--data.workers", "1", "--data.micro-batch", "8", "--train.max-steps", "1")
# Ended by the clock after a step, so that the same command goes on with the next one.
LARGE = (  # noqa: SIM905  (a command line reads better)
    "enhanced --data.workers 2 --data.global-batch 4 --data.micro-batch 2 --train.max-minutes 0.0001"
).split()
Seconds = dict[str, float]
Start = Callable[[tuple[str, ...], Path], Seconds]


def started(command: list[str], run_dir: Path, environment: dict[str, str]) -> Seconds:
    """Run a command that trains in this folder, and say what its start took, by phase."""
    before, known = time.time(), len(read_starts(run_dir))
    done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True)
    lines = read_starts(run_dir)
    if len(lines) != known + 1:
        raise RuntimeError(f"no first step: {' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return phases(lines[-1], before)


def phases(line: dict[str, Any], launched: float) -> Seconds:
    """A line of startup.jsonl, with the launch (Unix seconds) as its first phase and the sum as its last."""
    waited = began(line) - launched
    return {"launch": waited, **line["seconds"], "total": line["total"] + waited}


def train(flags: tuple[str, ...], shards: Path, run_dir: Path) -> list[str]:
    """The part of a command that all ways share."""
    return ["train", *flags, "--data.shards", str(shards), "--out", str(run_dir)]


def plain(shards: Path, environment: dict[str, str]) -> Start:
    """One process."""

    def start(flags: tuple[str, ...], run_dir: Path) -> Seconds:
        command = [sys.executable, "-m", "cxr_dist", *train(flags, shards, run_dir)]
        return started(command, run_dir, environment)

    return start


def accelerated(shards: Path, environment: dict[str, str]) -> Start:
    """Two processes on the CPU."""
    file = REPOSITORY / "launch" / "accelerate" / "cpu2.yaml"

    def start(flags: tuple[str, ...], run_dir: Path) -> Seconds:
        launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(file)]
        return started([*launcher, "-m", "cxr_dist", *train(flags, shards, run_dir)], run_dir, environment)

    return start


def under_slurm(shards: Path, environment: dict[str, str], nodes: int) -> Start:
    """Two tasks of one core each on every node, for which srun asks SLURM itself."""

    def start(flags: tuple[str, ...], run_dir: Path) -> Seconds:
        launcher = ["srun", f"--nodes={nodes}", "--ntasks-per-node=2", "--cpus-per-task=1", sys.executable]
        command = [*launcher, "-m", "cxr_dist", *train(flags, shards, run_dir)]
        return started(command, run_dir, environment)

    return start


@contextmanager
def slurm() -> Iterator[dict[str, str] | None]:
    """The environment of a SLURM of two nodes on this machine; None where it cannot be had."""
    sys.path.insert(0, str(REPOSITORY / "tests" / "slurm"))
    from cluster import missing, running_cluster

    if lacks := missing():
        print(f"not measured under SLURM: {lacks}")
        yield None
        return
    with running_cluster() as cluster:
        yield cluster.environment


def medians(turns: list[Seconds]) -> Seconds:
    """Phase by phase; of a total the median of totals."""
    values: dict[str, list[float]] = defaultdict(list)
    for turn in turns:
        for phase, seconds in turn.items():
            values[phase].append(seconds)
    return {phase: statistics.median(each) for phase, each in values.items()}


def starts(folder: Path, turns: int) -> dict[str, Seconds]:
    """By way: the median seconds of each phase."""
    (folder / "recipe.yaml").write_text(RECIPE)
    shards = folder / "shards"
    write_shards(load_recipe(folder / "recipe.yaml"), None, shards, workers=0)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CXR_DIST_WEIGHTS": str(folder / "bundle")}
    found: dict[str, list[Seconds]] = defaultdict(list)
    with ExitStack() as stack:
        ways = {"plain": plain(shards, environment)}
        if find_spec("accelerate"):
            ways["accelerate, 2 ranks"] = accelerated(shards, environment)
        if cluster := stack.enter_context(slurm()):
            for nodes in (1, 2):
                ways[f"srun, {nodes} × 2 ranks"] = under_slurm(shards, environment | cluster, nodes)
        for turn in range(turns):
            for number, (way, start) in enumerate(ways.items()):
                found[way].append(start(SMALL, folder / f"small-{turn}-{number}"))
        write_bundle(folder / "bundle")
        for turn in range(turns):
            for kind in ("plain, full size", "plain, full size, resumed"):
                found[kind].append(ways["plain"](tuple(LARGE), folder / f"large-{turn}"))
    return {way: medians(each) for way, each in found.items()}


def command_seconds(command: list[str], turns: int) -> float:
    """Median wall time of a command; its first time, which fills the disk's cache, does not count."""
    times = []
    for _ in range(1 + turns):
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def commands(turns: int) -> Seconds:
    """Seconds of the command line's help, and of imports in a process of their own."""
    found = {"cxr-dist --help": command_seconds([sys.executable, "-m", "cxr_dist", "--help"], 3 * turns)}
    found["python"] = command_seconds([sys.executable, "-c", "pass"], 3 * turns)
    for name in filter(find_spec, IMPORTS):
        found[f"import {name}"] = command_seconds([sys.executable, "-c", f"import {name}"], turns)
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=2)
    options = parser.parse_args()
    timed = commands(options.turns)
    with tempfile.TemporaryDirectory() as folder:
        found = starts(Path(folder), options.turns)
    for name, seconds in timed.items():
        print(f"  {name:<26}{seconds:7.2f} s")
    print(f"  (target of --help: at most {HELP_TARGET_SECONDS} s)")
    for way, spent in found.items():
        print(f"  {way:<26}" + "  ".join(f"{phase} {seconds:.1f}" for phase, seconds in spent.items()))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    result = {"what": "from the command to the first step, seconds by phase", "options": vars(options)}
    result |= {"device": device, "commands": timed, "help_target_seconds": HELP_TARGET_SECONDS}
    result |= {"starts": found, "machine": describe_machine()}
    result_path("startup", torch.device(device)).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
