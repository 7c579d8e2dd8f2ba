"""The files that a site edits, accelerate's configurations and the submitit script, run as a user would."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import submitit
import torch
from run_losses import losses

from cxr_dist.errors import UserError
from cxr_dist.launch import submit

LAUNCH = Path(__file__).resolve().parents[2] / "launch"
FLAGS = (  # noqa: SIM905  (a command line reads better)
    "--data.global-batch 16 --data.micro-batch 4 --data.image-size 64 --data.max-tokens 32 --data.workers 0 "
    "--train.epochs 1 --train.log-every 1 --seed 1"
).split()


def run(*command, cwd, expected=0):
    arguments = [sys.executable, *map(str, command)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(arguments, cwd=cwd, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == expected, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.multiprocess
def test_accelerate_and_submitit_start_two_processes_that_train_the_same(tiny_shards, tmp_path):
    command = ("demo", *FLAGS, "--data.shards", tiny_shards)
    site = ("--cluster", "local", "--tasks-per-node", "2", "--wait-minutes", "3")
    run(LAUNCH / "submit.py", *command, *site, "--out", "submitit", cwd=tmp_path)
    launcher = ("-m", "accelerate.commands.launch", "--config_file", LAUNCH / "accelerate" / "cpu2.yaml")
    run(*launcher, "-m", "cxr_dist", "train", *command, "--out", "accelerate", cwd=tmp_path)
    for name in ("submitit", "accelerate"):
        assert '"world_size": 2' in (tmp_path / name / "environment.json").read_text()
    assert losses(tmp_path / "submitit") == losses(tmp_path / "accelerate")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_the_configuration_for_gpus_names_the_one_for_cpus_on_a_machine_without_a_gpu(tiny_shards, tmp_path):
    # More than five seconds: accelerate and the processes that it starts all import torch.
    launcher = ("-m", "accelerate.commands.launch", "--config_file", LAUNCH / "accelerate" / "workstation.yaml")
    command = ("-m", "cxr_dist", "train", "demo", *FLAGS, "--data.shards", tiny_shards)
    printed = run(*launcher, *command, cwd=tmp_path, expected=1)
    assert "torch sees no GPU on this machine: use launch/accelerate/cpu2.yaml instead of workstation.yaml" in printed
    assert "Cuda is not available" not in printed
    assert not list(tmp_path.iterdir())


def test_a_mistyped_flag_fails_before_anything_is_submitted(tiny_shards, tmp_path):
    flags = ("--data.shards", tiny_shards, "--data.microbatch", "4")
    assert "data.microbatch" in run(LAUNCH / "submit.py", "demo", *flags, cwd=tmp_path, expected=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("site", "message"),
    [
        (("--nodes", "3"), "world size 3 does not divide 4 lanes"),
        (("--cluster", "debug", "--tasks-per-node", "2"), "debug is one process, not 2"),
        (("--cluster", "local", "--nodes", "2"), "local is one machine, not 2"),
        (("--data.shards", "nowhere"), "no manifest.json in nowhere"),
    ],
)
def test_a_job_that_would_fail_is_refused(tiny_shards, tmp_path, monkeypatch, site, message, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((UserError, SystemExit)) as refused:
        submit.submit("demo", ["--data.shards", str(tiny_shards), *FLAGS, *site])
    assert message in str(refused.value) + capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_checkpointed_job_is_submitted_unchanged():
    job = submit.TrainingJob("demo", ("--seed", "1"))
    again = job.__submitit_checkpoint__().function
    assert (type(again), again.run, again.flags) == (type(job), job.run, job.flags)
    assert hasattr(job, "checkpoint")  # submitit checks for this name before it calls either


@pytest.mark.parametrize(("number", "succeeded"), [("1", True), ("one", False)])
def test_waiting_distinguishes_a_failed_job_from_a_finished_one(tmp_path, number, succeeded):
    job = submitit.LocalExecutor(tmp_path).submit(int, number)
    assert submit.wait(job, minutes=1) is succeeded


def test_waiting_ends_at_the_deadline_and_the_job_continues(tmp_path):
    job = submitit.LocalExecutor(tmp_path).submit(time.sleep, 60)
    try:
        with pytest.raises(UserError, match=rf"job {job.job_id} is still RUNNING after 0.01 minutes; it continues"):
            submit.wait(job, minutes=0.01)
        assert not job.done()
    finally:
        job.cancel()
        job.wait()
