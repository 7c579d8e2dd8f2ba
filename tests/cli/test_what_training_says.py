"""What a training run says from its first line to its last, compared with what its folder holds.

More than five seconds: three starts of a real process, each of which imports torch.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cxr_dist.format.manifest import load_manifest

FLAGS = (  # noqa: SIM905  (a command line reads better)
    "--data.global-batch 16 --data.micro-batch 4 --data.image-size 32 --data.max-tokens 16 --data.workers 0 "
    "--train.epochs 2 --train.log-every 1"
).split()


def train(shards: Path, out: Path, *more: str, launcher: tuple[str, ...] = ()) -> tuple[int, list[str], list[str]]:
    """Train in processes of their own; return exit status, and the lines of standard output and error."""
    command = [sys.executable, *launcher, "-m", "cxr_dist", "train", "demo", "--data.shards", str(shards)]
    command += ["--out", str(out), *FLAGS, *more]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()


@pytest.fixture(scope="module")
def said(tiny_shards, tmp_path_factory):
    """The run folder, and what was said until it stopped after its first step, and when it resumed and finished."""
    out = tmp_path_factory.mktemp("said") / "run"
    stopped = train(tiny_shards, out, "--train.max-minutes", "0.0001")
    return out, stopped, train(tiny_shards, out)


def header(shards: Path, out: Path, ranks: str) -> list[str]:
    """The lines that name what is trained, from the manifest alone."""
    splits = load_manifest(shards).splits
    steps = splits["train"].samples // 16
    return [
        "run      demo, on images and reports, in fp32",
        f"device   CPU, {ranks}",
        f"samples  {splits['train'].samples} for training, {splits['val'].samples} for validation",
        f"steps    {2 * steps}, {steps} per epoch, at most 2 epochs",
        "lanes    4 of micro-batch 4, global batch 16",
        f"folder   {out}",
    ]


def test_a_run_begins_with_what_it_is_and_a_stopped_one_ends_with_how_to_resume(tiny_shards, said):
    out, (status, printed, lines), _ = said
    assert status == 75
    assert lines[:6] == header(tiny_shards, out, "1 rank")
    assert printed == [f"stopped: saved at step 1 of {total_of(tiny_shards)} in {out}; the same command resumes"]


def test_a_resumed_run_says_so_and_each_line_has_epoch_rate_and_time_left(tiny_shards, said):
    out, _, (status, _, lines) = said
    total = total_of(tiny_shards)
    assert status == 0
    assert sorted(lines[:7]) == sorted([*header(tiny_shards, out, "1 rank"), f"resumed after step 1 of {total}"])
    logged = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = {line["step"]: line for line in logged if "loss" in line}
    shown = [line for line in lines if line.startswith("step ") and "validation" not in line]
    assert len(shown) == total - 1
    for step, line in enumerate(shown, 2):
        epoch, loss, rate = steps[step]["epoch"], steps[step]["loss"], steps[step]["learning_rate"]
        assert line.startswith(f"step {step} of {total}  epoch {epoch:.2f} of 2  loss {loss:.4f}  lr {rate:.1e}  ")
        assert re.search(r"  \d+ samples/s  data wait \d+%(  \d+:\d\d:\d\d left)?$", line)
        assert line.endswith(" left") or step == 2  # the first line of a start has no time to go by


def test_a_run_ends_with_its_best_validation_the_time_and_the_next_command(tiny_shards, said):
    out, _, (_, printed, lines) = said
    logged = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    scores = {line["step"]: line["validation"]["mean_auc"] for line in logged if "validation" in line}
    best = max(scores, key=lambda step: scores[step])
    assert lines[-3] == f"best validation: mean AUC {scores[best]:.3f} after step {best}"
    assert re.fullmatch(rf"time: {total_of(tiny_shards) - 1} steps in \d+ s", lines[-2])
    assert lines[-1] == f"next: cxr-dist evaluate {out}"
    assert printed == [f"finished: {out}"]


@pytest.mark.multiprocess
def test_two_ranks_say_it_once(tiny_shards, tmp_path):
    ranks = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    status, printed, lines = train(tiny_shards, tmp_path / "run", "--train.max-steps", "2", launcher=ranks)
    assert (status, printed) == (0, [f"finished: {tmp_path / 'run'}"])
    assert lines.count("device   CPU, 2 ranks, ddp") == 1
    assert sum(line.startswith("step 2 of 2  epoch ") for line in lines) == 1
    assert sum(line.startswith("next: cxr-dist evaluate ") for line in lines) == 1


def total_of(shards: Path) -> int:
    """Steps of two epochs."""
    return 2 * (load_manifest(shards).splits["train"].samples // 16)
