"""Contrastive pretraining has the losses and weights of one process at any number of ranks, lanes and engines."""

import json
import os
import signal
import time
from pathlib import Path

import forked_ranks
import pytest
import torch
from run_losses import losses
from safetensors.torch import load_file

pytestmark = pytest.mark.multiprocess

EXACT = [{"parallel": "ddp", "precision": "fp64", "lanes": lanes} for lanes in (1, 2, 4)]
CASES = {
    1: [*EXACT, {"parallel": "ddp", "precision": "bf16", "lanes": 2}],
    2: [
        *EXACT,
        {"parallel": "ddp", "precision": "fp64", "lanes": 2, "same_label": True},
        {"parallel": "ddp", "precision": "bf16", "lanes": 2},
        {"parallel": "zero1", "precision": "fp32", "lanes": 2},
        {"parallel": "zero2", "precision": "bf16", "lanes": 1},
        {"parallel": "zero3", "precision": "fp32", "lanes": 2},
    ],
    4: [*EXACT, {"parallel": "ddp", "precision": "fp64", "lanes": 2, "exact_sums": True}],
}


@pytest.mark.parametrize("ranks", CASES)
def test_steps_equal_those_of_one_graph_over_the_global_batch(ranks: int, small_bert: Path) -> None:
    """Takes more than five seconds: every case trains a network twice on each rank, and ranks share two cores."""
    script = Path(__file__).with_name("contrastive_step_ranks.py")
    output = forked_ranks.run(ranks, script, small_bert, *map(json.dumps, CASES[ranks]), seconds=580)
    assert output.count("agrees") == ranks * len(CASES[ranks])


SETTINGS = (  # noqa: SIM905  (a command line reads better)
    "--data.global-batch 16 --data.micro-batch 4 --data.image-size 64 --data.max-tokens 64 --data.workers 0 "
    "--train.epochs 3 --train.log-every 1 --train.freeze-epochs 1 --train.save-every 2 --seed 3 "
    "--data.evaluation-batch 5 --precision fp64 --train.keep-checkpoints 20 --pretrain.sentences 1 "
    "--data.text-sections findings impression"
).split()


@pytest.fixture(scope="module")
def runs(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory, run_ranks) -> dict[int, Path]:
    """Folders of the same run in float64 with 1, 2 and 4 ranks, which have 4, 2 and 1 lanes each."""
    folder = tmp_path_factory.mktemp("pretrain")
    for size in (1, 2, 4):
        out = folder / f"ranks{size}"
        run_ranks(size, "train", "demo-pretrain", *SETTINGS, "--data.shards", tiny_shards, "--out", out)
    return {size: folder / f"ranks{size}" for size in (1, 2, 4)}


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(max((run_dir / "checkpoints").glob("step-*")) / "model.safetensors")


def recalls(run_dir: Path) -> list[dict[str, float]]:
    lines = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [line["validation"] for line in lines if "validation" in line]


@pytest.mark.parametrize("size", [2, 4])
def test_runs_are_the_same_at_any_world_size(runs: dict[int, Path], size: int) -> None:
    """Takes more than five seconds: it starts real ranks, of which four share two cores."""
    alone, together = losses(runs[1]), losses(runs[size])
    assert list(together) == list(alone) == list(range(1, 16))
    for step, loss in alone.items():
        assert together[step] == pytest.approx(loss, rel=1e-9), step
    other = weights(runs[size])
    for name, value in weights(runs[1]).items():
        assert (value - other[name]).abs().max() <= 1e-9 * max(1.0, float(value.abs().max())), name
    assert recalls(runs[size]) == recalls(runs[1])
    assert len(recalls(runs[1])) == 3


def test_killed_ranks_resume_bit_for_bit(
    runs: dict[int, Path], tiny_shards: Path, tmp_path: Path, start_ranks, run_ranks
) -> None:
    """Takes more than five seconds: it starts four ranks twice."""
    out = tmp_path / "killed"
    command = ("train", "demo-pretrain", *SETTINGS, "--data.shards", tiny_shards, "--out", out)
    process = start_ranks(4, *command)
    deadline = time.monotonic() + 120
    while not list((out / "checkpoints").glob("step-0000000[4-9]")) and time.monotonic() < deadline:
        time.sleep(0.01)
    ranks = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in [process.pid, *map(int, ranks)]:
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    assert max(losses(out)) < max(losses(runs[4])), "the run finished before it was killed"

    assert "resumed after step" in run_ranks(4, *command)
    assert losses(out) == losses(runs[4])
    resumed = weights(out)
    for name, value in weights(runs[4]).items():
        assert value.equal(resumed[name]), name
