"""When a job is requeued, given the output of scontrol; the real one is replaced by a script that answers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cxr_dist.errors import EXIT_REFUSED, EXIT_STOPPED
from cxr_dist.run.requeue import forbid_requeue, requeue, wants_requeue
from cxr_dist.run.restarts import MOST_DEATHS, read
from cxr_dist.run.slurm_job import slurm_job

# Output of `scontrol --oneliner show job` in SLURM 22.05; the user chooses the job's name and command.
RUNNING = "JobId=6 JobName=a b JobState=RUNNING Reason=None Requeue=1 Restarts=0 PreemptTime=None Command=/a b/c.sh"
PREEMPTED = RUNNING.replace("PreemptTime=None", "PreemptTime=2026-11-22T22:14:27")
CANCELLED = RUNNING.replace("RUNNING", "COMPLETING")
SHELL_KILLED = CANCELLED.replace("Reason=None", "Reason=JobLaunchFailure")
OVER_TIME = CANCELLED.replace("Reason=None", "Reason=TimeLimit")
REQUEUED = CANCELLED.replace("Restarts=0", "Restarts=1")


@pytest.mark.parametrize(
    ("shown", "training", "evaluation"),
    [
        (RUNNING, True, False),  # an evaluation that failed would fail again
        (PREEMPTED, True, True),
        (SHELL_KILLED, True, False),
        (OVER_TIME, True, False),
        (CANCELLED, False, False),
        (PREEMPTED.replace("RUNNING", "COMPLETING"), False, False),
        (REQUEUED, False, False),
        (RUNNING.replace("Restarts=0", "Restarts=1"), False, False),  # the next start is already running
        (RUNNING.replace("Requeue=1", "Requeue=0"), False, False),
        ("", False, False),
    ],
)
def test_a_job_is_requeued_if_it_runs_or_ended_without_being_cancelled(shown, training, evaluation):
    assert wants_requeue(shown, restart=0) is training
    assert wants_requeue(shown, restart=0, only_preempted=True) is evaluation


def test_an_array_task_is_named_by_array_and_task(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    assert slurm_job() == "9"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    assert slurm_job() == "7_2"


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """A script in place of scontrol that shows a running job; returns a function that lists all other calls."""
    program, asked = tmp_path / "bin" / "scontrol", tmp_path / "asked"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\n[ "$2" = show ] && echo "{RUNNING}" || echo "$@" >> "{asked}"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "6")
    monkeypatch.setenv("CXR_DIST_SUPERVISED", "1")
    for name in ("SLURM_RESTART_COUNT", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    return lambda: asked.read_text().splitlines() if asked.exists() else []


def test_a_job_is_requeued_only_once_by_each_start(scontrol, monkeypatch):
    assert requeue() == "requeued job 6"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert requeue() == "job 6 is left to SLURM"
    assert scontrol() == ["requeue 6"]


def test_requeueing_is_forbidden_in_slurm_but_only_for_our_own_jobs(scontrol, monkeypatch):
    forbid_requeue()
    assert scontrol() == ["update JobId=6 Requeue=0"]
    monkeypatch.delenv("CXR_DIST_SUPERVISED")
    forbid_requeue()
    assert len(scontrol()) == 1


def end_of_tasks(status: int, run_dir: Path | str = "") -> tuple[int, str]:
    """Run what the job script runs after srun; returns the status of the job and the lines of its log."""
    command = [sys.executable, "-m", "cxr_dist.run.requeue", str(status), *filter(None, [str(run_dir)])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def run_dir(tmp_path):
    folder = tmp_path / "a run"
    (folder / "checkpoints" / "step-00000012").mkdir(parents=True)
    (folder / "config.yaml").touch()
    return folder


def test_failed_tasks_are_recorded_and_requeued_but_not_refused_or_stopped_ones(scontrol, run_dir):
    assert end_of_tasks(EXIT_REFUSED, run_dir) == (EXIT_REFUSED, "")
    assert end_of_tasks(EXIT_STOPPED, run_dir) == (EXIT_STOPPED, "")
    assert end_of_tasks(137) == (137, "job 6 is left to SLURM\n")
    assert end_of_tasks(137, run_dir) == (137, "the tasks ended with status 137; requeued job 6\n")
    assert scontrol() == ["requeue 6"]
    noted = [{name: line[name] for name in ("event", "job", "restart", "step", "status")} for line in read(run_dir)]
    assert noted == [{"event": "death", "job": "6", "restart": 0, "step": 12, "status": 137}]


def test_a_run_that_fails_repeatedly_without_progress_is_not_requeued(scontrol, run_dir):
    for _ in range(MOST_DEATHS - 1):
        assert end_of_tasks(137, run_dir)[0] == 137
    status, message = end_of_tasks(1, run_dir)
    assert status == EXIT_REFUSED
    assert (
        "cxr-dist: job 6 has died 3 times in a row (status 137, 137, 1) without a checkpoint after step 12: "
        "not requeued."
    ) in message
    assert scontrol() == ["requeue 6", "requeue 6", "update JobId=6 Requeue=0"]


def test_failures_with_progress_in_between_or_of_another_job_do_not_count(scontrol, run_dir, monkeypatch):
    for step in ("00000013", "00000014", "00000014"):
        (run_dir / "checkpoints" / f"step-{step}").mkdir(exist_ok=True)
        assert end_of_tasks(1, run_dir)[0] == 1
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert end_of_tasks(1, run_dir) == (1, "the tasks ended with status 1; requeued job 7\n")


def test_tasks_that_fail_before_the_run_folder_exists_create_none(scontrol, tmp_path):
    assert end_of_tasks(1, tmp_path / "none") == (1, "the tasks ended with status 1; requeued job 6\n")
    assert not (tmp_path / "none").exists()


def test_if_scontrol_is_missing_the_user_is_told_how_to_continue(scontrol, run_dir, monkeypatch):
    monkeypatch.setenv("PATH", str(run_dir))
    assert end_of_tasks(1, run_dir) == (1, "not requeued (FileNotFoundError): submit it again to resume\n")
