"""Training is the same at any world size and after kills, and evaluation writes the same bytes."""

import json
import os
import shutil
import signal
import time

import pytest
from ranks import SETTINGS
from run_losses import losses
from safetensors.torch import load_file

pytestmark = pytest.mark.multiprocess


def weights(run_dir):
    newest = max((run_dir / "checkpoints").glob("step-*"))
    return load_file(newest / "model.safetensors")


@pytest.mark.parametrize("size", [2, 4])
def test_losses_and_weights_are_the_same_at_any_world_size(finished_runs, size):
    alone, together = losses(finished_runs[1]), losses(finished_runs[size])
    assert list(together) == list(alone) == list(range(1, len(alone) + 1))
    assert len(alone) == 20
    for step, loss in alone.items():
        assert together[step] == pytest.approx(loss, rel=1e-9), step
    other = weights(finished_runs[size])
    for name, value in weights(finished_runs[1]).items():
        assert (value - other[name]).abs().max() <= 1e-9 * max(1.0, float(value.abs().max())), name


def test_a_run_that_is_killed_and_resumed_is_bit_for_bit_the_uninterrupted_run(
    finished_runs, tiny_shards, tmp_path, start_ranks, run_ranks
):
    out = tmp_path / "killed"
    command = ("train", "demo", *SETTINGS, "--data.shards", tiny_shards, "--precision", "fp64", "--out", out)
    process = start_ranks(4, *command)  # with two ranks the sum would not depend on the order
    checkpoints = out / "checkpoints"
    deadline = time.monotonic() + 120
    while not list(checkpoints.glob("step-0000000[4-9]")) and time.monotonic() < deadline:
        time.sleep(0.01)
    children = f"/proc/{process.pid}/task/{process.pid}/children"
    with open(children) as file:
        ranks = [int(pid) for pid in file.read().split()]
    for pid in [process.pid, *ranks]:
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    assert max(losses(out)) < max(losses(finished_runs[4])), "the run finished before it was killed"

    assert "resumed after step" in run_ranks(4, *command)
    assert losses(out) == losses(finished_runs[4])
    resumed = weights(out)
    for name, value in weights(finished_runs[4]).items():
        assert value.equal(resumed[name]), name


def test_a_run_resumes_at_another_world_size(finished_runs, tiny_shards, tmp_path, run_ranks):
    out = tmp_path / "elastic"
    command = ("train", "demo", *SETTINGS, "--data.shards", tiny_shards, "--precision", "fp64", "--out", out)
    stopped = run_ranks(1, *command, "--train.max-minutes", "0.0001", expected=1)
    assert "stopped" in stopped
    assert "resumed after step 1 of" in run_ranks(4, *command)
    expected = losses(finished_runs[1])
    for step, loss in losses(out).items():
        assert loss == pytest.approx(expected[step], rel=1e-9), step


@pytest.mark.parametrize(("scope", "sizes"), [("head", (1, 2, 3, 4)), ("all", (1, 3))])
def test_evaluation_writes_the_same_bytes_at_any_world_size(finished_runs, run_ranks, scope, sizes):
    run_dir, written = finished_runs[1], set()
    for size in sizes:
        shutil.rmtree(run_dir / "evaluation", ignore_errors=True)  # also of the validation split
        run_ranks(size, "evaluate", run_dir, "--mc-samples", "5", "--mc-scope", scope, "--audit")
        written.add(evaluation_bytes(run_dir))
    assert len(written) == 1
    metrics = json.loads((run_dir / "evaluation" / "test" / "metrics.json").read_text())
    assert metrics["metrics"]["n"] >= 20
    assert metrics["metrics"]["uncertainty"] is not None
    assert metrics["audit"]["report"]["other_labels"]["metrics"]["macro_roc_auc"]["fall"] is not None
    assert metrics["mc_scope"] == scope


def test_an_ensemble_is_evaluated_the_same_at_any_world_size(finished_runs, tmp_path, run_ranks):
    written = set()
    for size in (1, 3):
        out = tmp_path / f"ensemble{size}"
        members = (finished_runs[1], "--ensemble", finished_runs[2], finished_runs[4])
        run_ranks(size, "evaluate", *members, "--out", out, "--mc-samples", "2")
        written.add(evaluation_bytes(out))
    assert len(written) == 1
    assert len(json.loads((out / "evaluation" / "test" / "metrics.json").read_text())["members"]) == 3


def evaluation_bytes(run_dir):
    files = sorted((run_dir / "evaluation").rglob("*.*"))
    assert [f"{path.parent.name}/{path.name}" for path in files] == [
        f"{split}/{name}" for split in ("test", "val") for name in ("metrics.json", "predictions.csv")
    ]
    return b"".join(path.read_bytes() for path in files)


def test_a_world_size_that_does_not_divide_the_lanes_is_refused(tiny_shards, tmp_path, start_ranks):
    command = ("train", "demo", *SETTINGS, "--data.shards", tiny_shards, "--out", tmp_path / "run")
    process = start_ranks(3, *command)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "world size 3 does not divide 4 lanes" in output
    assert "use 1, 2, 4 ranks, or change data.micro_batch" in output
    assert not (tmp_path / "run").exists()
