"""With exact_sums, a run's losses and the sha256 of its weights are the same on any number of ranks."""

import hashlib
import json
import os
import signal
import time

import pytest

pytestmark = pytest.mark.multiprocess

STEPS = 10
SETTINGS = (
    "--exact-sums true --data.global-batch 16 --data.micro-batch 2 --data.image-size 64 --data.max-tokens 64 "
    f"--data.workers 0 --train.epochs 4 --train.max-steps {STEPS} --train.log-every 1 --train.save-every 2 "
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


@pytest.fixture(scope="session")
def undisturbed(tiny_shards, tmp_path_factory, run_ranks):
    """undisturbed(run, precision, size): the folder of this run, trained once on `size` ranks from start to end."""
    folder = tmp_path_factory.mktemp("undisturbed")

    def trained(run, precision, size):
        out = folder / f"{run}-{precision}-{size}"
        if not out.exists():
            run_ranks(size, *command(run, precision, tiny_shards), "--out", out)
        return out

    return trained


def command(run, precision, shards):
    """The arguments of `cxr-dist` that train this run, but for the folder."""
    return ("train", run, *SETTINGS, "--precision", precision, "--data.shards", shards)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("run", ["demo", "demo-baseline"])
def test_any_number_of_ranks_has_the_same_bits(run, precision, undisturbed):
    """Takes longer than five seconds: 15 processes in four worlds train on the cores of one machine."""
    one, *more = (bits(undisturbed(run, precision, size)) for size in (1, 2, 4, 8))
    assert len(one[1]) == STEPS
    assert len(one[2]) == 2
    for found in more:
        assert found == one


@pytest.mark.parametrize(("run", "precision"), [("demo", "fp32"), ("demo-baseline", "bf16")])
def test_a_run_that_is_killed_and_resized_has_the_same_bits(
    run, precision, tiny_shards, tmp_path, start_ranks, run_ranks, undisturbed
):
    """Takes half a minute: four starts, of up to eight processes on the cores of one machine."""
    arguments = command(run, precision, tiny_shards)
    for size, kill_after in ((4, 3), (2, 5), (8, 7)):
        process = start_ranks(size, *arguments, "--out", tmp_path)
        kill_when_logged(process, tmp_path / "metrics.jsonl", kill_after)
    assert "resumed after step" in run_ranks(1, *arguments, "--out", tmp_path)
    assert bits(tmp_path) == bits(undisturbed(run, precision, 1))


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
    assert f'{{"step": {STEPS},' not in log.read_text(), "the run finished before it was killed"
