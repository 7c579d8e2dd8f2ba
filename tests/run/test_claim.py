"""Only the most recent start owns a run folder. Earlier starts write nothing more and report who owns it now."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cxr_dist.errors import EXIT_REFUSED, EXIT_STOPPED, UserError
from cxr_dist.run import checkpoint, restarts
from cxr_dist.run.checkpoint import Progress, TrainingState
from cxr_dist.run.claim import Claim

STATE = TrainingState(step=3, progress=Progress(), manifest_sha256="0" * 64)


def owned(run_dir: Path) -> Claim:
    claim = Claim(run_dir)
    claim.take()
    claim.check()
    return claim


def test_the_last_start_owns_the_folder_and_the_previous_one_reports_the_owner(tmp_path, monkeypatch):
    before = owned(tmp_path)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    after = owned(tmp_path)
    with pytest.raises(UserError, match=rf"taken over by job 7 \(restart 1\), process {os.getpid()} on"):
        before.check()
    after.check()


def test_an_owner_whose_folder_was_cleared_stops(tmp_path):
    claim = owned(tmp_path)
    (tmp_path / "owner.json").unlink()
    with pytest.raises(UserError, match=r"no longer contains owner\.json: the folder was moved or cleared"):
        claim.check()


def saved(run_dir: Path, confirm: Callable[[], None]) -> None:
    checkpoint.save(run_dir, STATE, {"weight": torch.ones(4)}, {}, confirm)


def test_a_replaced_start_does_not_touch_the_checkpoints(tmp_path):
    before = owned(tmp_path)
    saved(tmp_path, before.check)
    others = tmp_path / "checkpoints" / ".step-00000003.partial"  # what the new owner is writing
    others.mkdir()
    owned(tmp_path)
    with pytest.raises(UserError, match="taken over"):
        saved(tmp_path, before.check)
    assert others.is_dir()


def test_a_start_that_is_replaced_while_it_writes_keeps_the_existing_checkpoint(tmp_path):
    before, calls = owned(tmp_path), []

    def replaced_before_the_rename() -> None:
        calls.append(None)
        if len(calls) == 2:
            saved(tmp_path, owned(tmp_path).check)
            there.append((tmp_path / "checkpoints" / "step-00000003").stat().st_ino)
        before.check()

    there: list[int] = []
    with pytest.raises(UserError, match="taken over"):
        saved(tmp_path, replaced_before_the_rename)
    assert (tmp_path / "checkpoints" / "step-00000003").stat().st_ino == there[0]


def start(shards: Path, run_dir: Path, *flags: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "cxr_dist", "train", "demo"]
    command += ["--data.shards", str(shards), "--out", str(run_dir)]
    command += ["--data.image-size", "64", "--train.epochs", "10000", "--train.eval-every", "50000"]
    command += ["--train.save-every", "2", "--train.log-every", "1", *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_of_two_runs_in_one_folder_the_second_continues_and_the_first_exits(tiny_shards, tmp_path):
    run_dir = tmp_path / "run"
    first = start(tiny_shards, run_dir)
    try:
        while not any((run_dir / "checkpoints").glob("step-*")):
            assert first.poll() is None, first.communicate()
            time.sleep(0.1)
        second = start(tiny_shards, run_dir, "--train.max-minutes", "0.001")
        second.communicate(timeout=400)
        _, message = first.communicate(timeout=400)
    finally:
        first.kill()
    assert (first.returncode, second.returncode) == (EXIT_REFUSED, EXIT_STOPPED), message
    assert f"was taken over by process {second.pid} on" in message
    newest, skipped = checkpoint.newest_valid(run_dir)
    assert newest is not None
    assert skipped == []
    # One step of the second run, and none of the first run after that.
    assert newest.state.step == restarts.read(run_dir)[1]["step"] + 1
