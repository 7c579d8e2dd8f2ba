"""With exact_sums, a run's losses and the sha256 of its weights are the same on any number of ranks."""

import hashlib
import json
import os
import signal
import time

import pytest

pytestmark = pytest.mark.multiprocess

SETTINGS = (  # noqa: SIM905  (a command line reads better)
    "--exact-sums true --data.global-batch 16 --data.micro-batch 2 --data.image-size 64 --data.max-tokens 64 "
    "--data.workers 0 --train.epochs 4 --train.max-steps 8 --train.log-every 1 --train.save-every 2 "
    "--train.freeze-epochs 1 --train.mixup-alpha 0.2 --train.mixup-from-epoch 1 --optim.ema-decay 0.9 "
    "--loss.class-weights balanced --model.image-dropout 0.1 --seed 3"
).split()


def bits(run_dir):
    """What must be equal: losses, norms and validations by step, and the sha256 of the last weights and moments."""
    newest = max((run_dir / "checkpoints").glob("step-*"))
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(newest.glob("*.safetensors"))]
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    trained = [(line["step"], line["loss"], line["gradient_norm"]) for line in lines if "loss" in line]
    validated = [line for line in lines if "loss" not in line]
    assert len(hashes) == 2
    return hashes, trained, validated


@pytest.mark.parametrize(("run", "precision"), [("demo", "fp32"), ("demo-baseline", "bf16")])
def test_one_and_two_ranks_have_the_same_bits(run, precision, tiny_shards, tmp_path, run_ranks):
    found = []
    for size in (1, 2):
        out = tmp_path / f"ranks{size}"
        run_ranks(size, "train", run, *SETTINGS, "--precision", precision, "--data.shards", tiny_shards, "--out", out)
        found.append(bits(out))
    assert len(found[0][1]) == 8
    assert len(found[0][2]) == 2
    assert found[0] == found[1]


@pytest.mark.parametrize(("run", "precision"), [("demo", "fp32"), ("demo-baseline", "bf16")])
def test_a_run_that_is_killed_and_resized_has_the_same_bits(
    run, precision, tiny_shards, tmp_path, start_ranks, run_ranks
):
    """Takes a minute: two undisturbed runs and four starts, of up to eight processes on the cores of one machine."""
    command = (
        "train",
        run,
        *SETTINGS,
        "--precision",
        precision,
        "--train.max-steps",
        "14",
        "--data.shards",
        tiny_shards,
    )
    for size in (1, 8):
        run_ranks(size, *command, "--out", tmp_path / f"ranks{size}")
    out = tmp_path / "disturbed"
    for size, kill_after in ((4, 3), (2, 6), (8, 9)):
        process = start_ranks(size, *command, "--out", out)
        kill_when_logged(process, out / "metrics.jsonl", kill_after)
    assert "resumed after step" in run_ranks(1, *command, "--out", out)
    assert bits(out) == bits(tmp_path / "ranks1") == bits(tmp_path / "ranks8")
    assert len(bits(out)[1]) == 14


def kill_when_logged(process, log, step):
    """Kill all ranks once this step is logged; the run must not have finished."""
    deadline = time.monotonic() + 300
    while f'{{"step": {step},' not in (log.read_text() if log.exists() else "") and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.01)
    with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
        ranks = [int(pid) for pid in file.read().split()]
    for pid in [process.pid, *ranks]:
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    assert '{"step": 14,' not in log.read_text(), "the run finished before it was killed"
