"""Trials of a run's checkpoints: kill -9 during a write, damage to a written checkpoint, and a full disk.

All tensors are functions of the step, so that a trial can check whether the loaded tensors are the saved ones.
"""

import os
import shutil
import signal
import struct
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import torch

from cxr_dist.distributed.engine import Tensors
from cxr_dist.errors import UserError
from cxr_dist.run import checkpoint
from cxr_dist.run.checkpoint import Progress, TrainingState
from cxr_dist.run.saver import BackgroundSaver, write

BEST_EVERY, KEEP = 3, 2
FILES = ("model.safetensors", "optimizer.safetensors", "state.json", "sha256.json")


def model_of(step: int, size: int) -> Tensors:
    """A weight of `size` float32 values, and a count."""
    return {"weight": torch.arange(size, dtype=torch.float32) + step, "seen": torch.tensor(step)}


def moments_of(step: int, size: int) -> Tensors:
    """Adam's two moments."""
    return {f"{moment}/weight": -model_of(step, size)["weight"] for moment in ("exp_avg", "exp_avg_sq")}


def state_of(step: int) -> TrainingState:
    """The state of a step; every third step is the best so far."""
    best = step - step % BEST_EVERY
    return TrainingState(step=step, progress=Progress(best_step=best), manifest_sha256="m", config={"seed": 1})


def as_saved(found: checkpoint.Checkpoint, size: int) -> bool:
    """Whether the loaded checkpoint equals the one that was saved at its step."""
    step = found.state.step
    expected = model_of(step, size) | moments_of(step, size)
    loaded = found.model | found.optimizer
    same = loaded.keys() == expected.keys() and all(loaded[name].equal(expected[name]) for name in expected)
    return same and found.state == state_of(step)


def save_forever(run_dir: Path, size: int, first_step: int, pipe: int) -> None:
    """Save step after step with the run's saver, and write each step that is on disk to `pipe`."""
    step, saver = first_step, BackgroundSaver(run_dir, KEEP)
    while True:
        saver.save(state_of(step), model_of(step, size), moments_of(step, size))
        os.write(pipe, struct.pack("<i", step - 1))  # save() has waited for the previous step
        step += 1


def kill_trial(run_dir: Path, size: int, chance: Random, longest_seconds: float) -> str:
    """Kill a process at a random moment after its first save began; returns what a resumed run would load."""
    before, _ = checkpoint.newest_valid(run_dir)
    first_step = before.state.step + 1 if before else 1
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        try:
            save_forever(run_dir, size, first_step, writing)
        finally:
            os._exit(1)
    os.close(writing)
    first = os.read(reading, 4)
    time.sleep(chance.uniform(0, longest_seconds))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with open(reading, "rb") as file:
        steps = first + file.read()
    return _after_kill(run_dir, size, on_disk=struct.unpack("<i", steps[-4:])[0])


def _after_kill(run_dir: Path, size: int, on_disk: int) -> str:
    found, skipped = checkpoint.newest_valid(run_dir)
    if skipped or (found.state.step if found else 0) < on_disk:
        return "lost"
    if found is not None and not as_saved(found, size):
        return "silently wrong"
    best = run_dir / "best"
    if best.is_symlink() and not as_saved(checkpoint.load(best.resolve()), size):
        return "silently wrong"
    half_written = list((run_dir / "checkpoints").glob(".*.partial"))
    return "resumable, killed in a write" if half_written else "resumable, killed between writes"


def flip(path: Path, chance: Random) -> None:
    """Flip one bit."""
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def cut(path: Path, chance: Random) -> None:
    """Cut the file off at a random byte."""
    os.truncate(path, chance.randrange(path.stat().st_size))


def a_folder_instead(path: Path, chance: Random) -> None:
    """Replace the file by a folder."""
    path.unlink()
    path.mkdir()


def unreadable(path: Path, chance: Random) -> None:
    """Replace the file by a link to itself, which not even root can open."""
    path.unlink()
    path.symlink_to(path.name)


def another_steps(path: Path, chance: Random) -> None:
    """Replace the file by the same file of the previous checkpoint."""
    shutil.copy(path.parent.with_name("step-00000001") / path.name, path)


DAMAGES: dict[str, Callable[[Path, Random], None]] = {
    "one flipped bit": flip,
    "cut at any byte": cut,
    "a folder in its place": a_folder_instead,
    "cannot be opened": unreadable,
    "the file of another step": another_steps,
}


def damage_trials(folder: Path, damage: str, repeats: int, size: int = 2000) -> Counter[str]:
    """Damage the files of the newest of two checkpoints in turn; returns what a resumed run would load."""
    run_dir, chance, outcomes = folder / "run", Random(0), Counter[str]()
    for step in (1, 2):
        write(run_dir, state_of(step), model_of(step, size), moments_of(step, size), keep=KEEP)
    newest = run_dir / "checkpoints" / "step-00000002"
    whole = shutil.copytree(newest, folder / "whole")
    for number in range(repeats):
        name = FILES[number % len(FILES)]
        DAMAGES[damage](newest / name, chance)
        outcomes[_after_damage(run_dir, size)] += 1
        shutil.rmtree(newest)
        shutil.copytree(whole, newest)
    return outcomes


def _after_damage(run_dir: Path, size: int) -> str:
    found, skipped = checkpoint.newest_valid(run_dir)
    if found is None or not as_saved(found, size):
        return "silently wrong"
    named = [reason for reason in skipped if reason.startswith("step-00000002: ")]
    return "the one before, and said why" if found.state.step == 1 and named else "silent"


def full_disk_trial(disk: Path, size: int) -> str:
    """Save a second checkpoint on a disk that may be too full; returns the outcome."""
    run_dir = disk / "run"
    try:
        with BackgroundSaver(run_dir, KEEP) as saver:
            saver.save(state_of(3), model_of(3, size), moments_of(3, size))
        refused = False
    except UserError as error:
        refused = str(error).startswith("no space left for the checkpoint of step 3")
    found, skipped = checkpoint.newest_valid(run_dir)
    if found is None or skipped or not as_saved(found, size):
        return "lost"
    if refused == (found.state.step == 3):
        return "refused at its mark, and it is whole" if refused else "silent"
    return "refused, the one before is whole" if refused else "saved"


def _prepare_disk(disk: Path, size: int) -> None:
    shutil.rmtree(disk / "run", ignore_errors=True)
    write(disk / "run", state_of(1), model_of(1, size), moments_of(1, size), keep=KEEP)


def fill_trials(disk: Path, size: int = 8000) -> Counter[str]:
    """Save with every number of free pages, from none to enough for a checkpoint; `disk` is a small tmpfs."""
    outcomes, page, filler = Counter[str](), os.sysconf("SC_PAGE_SIZE"), disk / "filler"
    free_pages = 0
    while outcomes["saved"] < 2:
        _prepare_disk(disk, size)
        state = os.statvfs(disk)
        filler.write_bytes(b"x" * max(0, state.f_bavail * state.f_frsize - free_pages * page))
        outcomes[full_disk_trial(disk, size)] += 1
        filler.unlink()
        free_pages += 1
    return outcomes


def inode_trials(disk: Path, size: int = 100) -> Counter[str]:
    """Save with every number of free inodes, from none to enough, so that each new file of a save fails once."""
    outcomes, free_inodes = Counter[str](), 0
    while outcomes["saved"] < 2:
        _remount(disk, "nr_inodes=1000")
        _prepare_disk(disk, size)
        _remount(disk, f"nr_inodes={_inodes_used(disk) + free_inodes}")
        outcomes[full_disk_trial(disk, size)] += 1
        free_inodes += 1
    _remount(disk, "nr_inodes=1000")
    return outcomes


def _inodes_used(disk: Path) -> int:
    state = os.statvfs(disk)
    return state.f_files - state.f_ffree


def _remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", disk], check=True)
