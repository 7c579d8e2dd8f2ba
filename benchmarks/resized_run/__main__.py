"""Compare a run that is killed, preempted and resized 4 -> 2 -> 1 -> 4 ranks with an undisturbed run on one rank.

    python -m benchmarks.resized_run [--ways fp32 fp64 "fp32, exact sums"]

The demo's data and network with mixup and dropout, and gloo between the ranks. A killed run resumes from its newest
checkpoint, which it writes every 5 steps; a preempted run (TERM) saves a checkpoint first. All runs are trained in
float32, in float64, where rounding has almost no effect, and in float32 with --exact-sums, where losses and weights
must not differ in a single bit. An undisturbed run on four ranks in float32 shows how large the effect of rounding is.
The
three runs of a way are trained at the same time. Ways that are not measured keep their earlier results. Writes
benchmarks/results/resized_run.json and the picture docs/images/resized_run.svg.
"""

import datetime
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.films import demo_shards
from benchmarks.harness import ROOT, arguments, result_path, write_result
from benchmarks.resized_run.picture import draw, residual

PICTURE = ROOT / "docs" / "images" / "resized_run.svg"
FLAGS = (  # noqa: SIM905  (a command line reads better)
    "--data.global-batch 64 --data.micro-batch 16 --optim.lr 2e-3 --optim.schedule cosine --optim.warmup-steps 10 "
    "--train.max-steps 60 --train.log-every 1 --train.save-every 5 --train.eval-every 1000"
).split()
WAYS = {  # name in the results: flags
    "fp32": ("--precision", "fp32"),
    "fp64": ("--precision", "fp64"),
    "fp32, exact sums": ("--precision", "fp32", "--exact-sums", "true"),
}
_SECONDS = 600  # limit for one stage on a busy machine


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A number of ranks, and how they end."""

    ranks: int
    end_after: int | None = None
    """Logged steps after which the ranks are ended; None lets the run finish."""
    ended_by: signal.Signals = signal.SIGKILL


STAGES = (
    Stage(ranks=4, end_after=17, ended_by=signal.SIGKILL),
    Stage(ranks=2, end_after=30, ended_by=signal.SIGTERM),
    Stage(ranks=1, end_after=44, ended_by=signal.SIGKILL),
    Stage(ranks=4),
)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run folder, its shards and its flags in addition to FLAGS."""

    shards: Path
    folder: Path
    flags: tuple[str, ...]


def start_ranks(run: Run, ranks: int) -> list[subprocess.Popen[bytes]]:
    """Start the run's ranks as processes on this machine."""
    with closing(socket.socket()) as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "cxr_dist", "train", "demo", *FLAGS, *run.flags]
    command += ["--data.shards", str(run.shards), "--out", str(run.folder)]
    common = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "WORLD_SIZE": str(ranks)}
    common |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    environments = [os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]
    return [subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL) for env in environments]


def losses(run_dir: Path) -> dict[int, float]:
    """The loss of every completely logged step; fails if a step was logged twice."""
    path = run_dir / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    records = [json.loads(line) for line in lines if line.endswith("\n")]
    logged = [(record["step"], record["loss"]) for record in records if "loss" in record]
    assert len(dict(logged)) == len(logged)
    return dict(logged)


def weights_sha256(run_dir: Path) -> str:
    """The sha256 of the file with the last weights."""
    newest = max((run_dir / "checkpoints").glob("step-*"))
    return hashlib.sha256((newest / "model.safetensors").read_bytes()).hexdigest()


def run_stage(run: Run, stage: Stage) -> list[int]:
    """Run one stage to its end; returns the ranks' exit statuses."""
    processes = start_ranks(run, stage.ranks)
    deadline = time.monotonic() + _SECONDS
    try:
        while stage.end_after is not None and len(losses(run.folder)) < stage.end_after:
            assert time.monotonic() < deadline
            assert all(process.poll() is None for process in processes)
            time.sleep(0.01)
        for process in processes if stage.end_after is not None else []:
            process.send_signal(stage.ended_by)
        return [process.wait(timeout=_SECONDS) for process in processes]
    finally:
        for process in processes:
            process.kill()


def disturb(run: Run) -> list[dict[str, object]]:
    """Run all stages in turn; returns what happened at the end of each but the last."""
    events: list[dict[str, object]] = []
    for stage, following in pairwise(STAGES):
        statuses = run_stage(run, stage)
        newest = max((run.folder / "checkpoints").glob("step-*"))
        events.append(
            {
                "signal": stage.ended_by.name,
                "after_step": max(losses(run.folder)),
                "resumed_after_step": int(newest.name.removeprefix("step-")),
                "ranks": stage.ranks,
                "ranks_then": following.ranks,
                "exit_statuses": statuses,
            }
        )
    assert run_stage(run, STAGES[-1]) == [0] * STAGES[-1].ranks
    return events


def left_alone(run: Run, ranks: int) -> list[float]:
    """The losses of an undisturbed run."""
    assert run_stage(run, Stage(ranks=ranks)) == [0] * ranks
    return list(losses(run.folder).values())


def measure(folder: Path, way: str) -> dict[str, Any]:
    """The losses and the weights' sha256 of the undisturbed runs on one and on four ranks, and of the disturbed run."""
    runs = {
        name: Run(shards=folder / "shards", folder=folder / f"{name}, {way}", flags=WAYS[way])
        for name in ("disturbed", "one rank", "four ranks")
    }
    with ThreadPoolExecutor() as pool:
        disturbing = pool.submit(disturb, runs["disturbed"])
        alone = {
            name: pool.submit(left_alone, runs[name], ranks) for name, ranks in (("one rank", 1), ("four ranks", 4))
        }
    events = disturbing.result()
    logged = losses(runs["disturbed"].folder)
    assert list(logged) == list(range(1, len(logged) + 1))
    found = {"disturbed": list(logged.values())} | {name: each.result() for name, each in alone.items()}
    return {
        "date": datetime.date.today().isoformat(),
        "events": events,
        **found,
        "weights_sha256": {name: weights_sha256(run.folder) for name, run in runs.items()},
    }


def main() -> None:
    """Measure, write the result and the picture, and print the largest differences."""
    options = arguments(__doc__, ways=list(WAYS))
    path = result_path("resized_run")
    earlier = json.loads(path.read_text()) if path.is_file() else {}
    with tempfile.TemporaryDirectory() as name:
        demo_shards(Path(name))
        runs: dict[str, Any] = {way: measure(Path(name), way) if way in options.ways else earlier[way] for way in WAYS}
    what = "losses of a run killed, preempted and resized, beside the same run left alone"
    write_result("resized_run", what, flags=" ".join(FLAGS), **runs)
    draw(runs, PICTURE)
    for way in options.ways:
        different = len(set(runs[way]["weights_sha256"].values()))
        print(f"{way}: largest relative residual {max(residual(runs, way)):.1e}, {different} different weights")


if __name__ == "__main__":
    main()
