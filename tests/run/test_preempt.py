"""A signal sets a flag in the training process and does nothing in its children; rank 0 then may requeue the job."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cxr_dist.distributed.world import World
from cxr_dist.errors import EXIT_STOPPED
from cxr_dist.run.preempt import StopRequest, requeue_if_due

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


@pytest.fixture(autouse=True)
def handlers_restored() -> Iterator[None]:
    before = [signal.getsignal(name) for name in SIGNALS]
    yield
    for name, handler in zip(SIGNALS, before, strict=True):
        signal.signal(name, handler)


@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_asks_to_stop(name):
    stop = StopRequest(max_minutes=0)
    assert not stop.requested
    signal.raise_signal(name)
    assert stop.requested
    assert [other for other in SIGNALS if stop.received(other)] == [name]


def test_an_early_warning_is_remembered_after_a_later_signal():
    stop = StopRequest(max_minutes=0)
    signal.raise_signal(signal.SIGUSR2)
    signal.raise_signal(signal.SIGTERM)
    assert stop.received(signal.SIGUSR2)


def test_a_second_interrupt_stops_immediately():
    StopRequest(max_minutes=0)
    signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_the_time_limit_asks_to_stop():
    stop = StopRequest(max_minutes=0.05 / 60)
    assert not stop.requested
    time.sleep(0.06)
    assert stop.requested


def test_a_forked_child_ignores_the_signal():
    stop = StopRequest(max_minutes=0)
    if (child := os.fork()) == 0:
        signal.raise_signal(signal.SIGUSR2)
        os._exit(int(stop.requested))
    assert os.waitpid(child, 0)[1] == 0


def answers(process: subprocess.Popen[str], number: signal.Signals) -> bool:
    """Whether the process has a handler for this signal, from the kernel's mask of caught signals."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    caught = int(status.split("SigCgt:")[1].split()[0], 16)
    return bool(caught >> (number - 1) & 1)


def test_a_signal_during_the_import_of_torch_is_handled(tiny_shards, tmp_path):
    flags = ("--data.image-size", "64", "--data.shards", tiny_shards, "--out", tmp_path / "run")
    command = [sys.executable, "-m", "cxr_dist", "train", "demo", *map(str, flags)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    while not answers(process, signal.SIGUSR2):
        time.sleep(0.005)
    assert "libtorch" not in Path(f"/proc/{process.pid}/maps").read_text()
    process.send_signal(signal.SIGUSR2)
    printed, _ = process.communicate(timeout=120)
    assert (process.returncode, printed.split(":")[0]) == (EXIT_STOPPED, "stopped")
    assert [folder.name for folder in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000001"]


# Output of `scontrol --oneliner show job` in SLURM 22.05.
RUNNING = "JobId=6 JobName=a b JobState=RUNNING Reason=None Requeue=1 Restarts=0 PreemptTime=None Command=/a b/c.sh"


@pytest.fixture
def stopped_by_warning():
    stop = StopRequest(max_minutes=0)
    signal.raise_signal(signal.SIGUSR2)
    return stop


def said(stop: StopRequest) -> list[str]:
    lines: list[str] = []
    requeue_if_due(stop, World(), lines.append)
    return lines


def test_outside_slurm_nothing_is_requeued(stopped_by_warning, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert said(stopped_by_warning) == []


def test_if_slurm_refuses_the_user_is_told_how_to_continue(stopped_by_warning, monkeypatch, tmp_path):
    refuses = (
        f'[ "$1" = requeue ] || {{ echo "{RUNNING}"; exit 0; }}\n'
        'echo "Requested operation is presently disabled for job 6" >&2\nexit 1'
    )
    (tmp_path / "scontrol").write_text(f"#!/bin/sh\n{refuses}\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "6")
    assert said(stopped_by_warning) == [
        "saved; job 6 could not be requeued (Requested operation is presently disabled for job 6): "
        "submit it again to resume"
    ]
