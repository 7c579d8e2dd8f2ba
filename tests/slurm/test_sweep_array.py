"""A sweep on a real SLURM: one run of the job array is warned and requeued, and a second call submits nothing twice."""

import json
import stat
import subprocess
import sys
import time

import pytest
from run_losses import losses
from small_run import FLAGS, REPOSITORY

pytestmark = pytest.mark.slurm


def submit_sweep(cluster, folder, shards, *site, sweep="optim.lr=2e-4,1e-3"):
    """Submit a sweep with one node per run; by default, its first run equals the small run."""
    command = [
        sys.executable,
        REPOSITORY / "launch" / "submit.py",
        "enhanced",
        "--sweep",
        sweep,
    ]
    command += ["--cpus-per-task", "1", "--gpus-per-node", "0", *site, *FLAGS, "--data.shards", shards]
    command += ["--out", "sweep"]
    done = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env=cluster.environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_an_array_resumes_after_a_warning_and_is_not_submitted_twice(cluster, alone, tiny_shards, tmp_path):
    assert "2 of 2 runs submitted" in submit_sweep(cluster, tmp_path, tiny_shards)
    out = tmp_path / "sweep"
    jobs = json.loads((out / "sweep.json").read_text())
    first = jobs["optim.lr=2e-4"]
    assert list(jobs.values()) == [first, first.replace("_0", "_1")]
    metrics, deadline = out / "optim.lr=2e-4" / "metrics.jsonl", time.monotonic() + 200
    while not metrics.exists() or metrics.read_text().count("\n") < 3:
        assert time.monotonic() < deadline, "no 3 steps within 200 s"
        time.sleep(0.05)
    cluster.run("scancel", "--signal=USR2", first)
    printed = submit_sweep(cluster, tmp_path, tiny_shards, "--wait-minutes", "9")
    assert "0 of 2 runs submitted" in printed
    last_table = printed[printed.rindex("best validation AUC") :]
    assert last_table.count("finished") == 2, printed
    assert cluster.job(first)["Restarts"] == "1"
    assert cluster.job(jobs["optim.lr=1e-3"])["Restarts"] == "0"
    assert losses(out / "optim.lr=2e-4") == losses(alone)
    assert losses(out / "optim.lr=1e-3") != losses(alone)
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in (out, *out.glob("optim*"))} == {0o700}


def test_the_folds_of_a_cross_validation_are_one_array(cluster, fold_shards, tmp_path):
    """Trains three runs, which takes about a minute."""
    printed = submit_sweep(cluster, tmp_path, fold_shards, "--wait-minutes", "9", sweep="data.fold=0,1,2")
    assert "3 of 3 runs submitted" in printed
    assert printed[printed.rindex("best validation AUC") :].count("finished") == 3, printed
    out = tmp_path / "sweep"
    jobs = json.loads((out / "sweep.json").read_text())
    array = jobs["data.fold=0"].removesuffix("_0")
    assert jobs == {f"data.fold={fold}": f"{array}_{fold}" for fold in range(3)}
    for fold in range(3):
        facts = json.loads((out / f"data.fold={fold}" / "trained_on.json").read_text())["facts"]
        assert facts["fold"] == fold
