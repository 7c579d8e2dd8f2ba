"""Checkpoints: one format for every engine and world size, whole or absent, checked on load.

    checkpoints/step-00001200/  model.safetensors  optimizer.safetensors  state.json  sha256.json

A folder is written aside, fsynced and renamed; old ones are deleted last, so that there is always a loadable
one. Optimizer moments are stored by parameter name. No pickle anywhere, and no state of a random generator:
every random number of a run is a function of (seed, epoch, step, lane, sample).
"""

import dataclasses
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from cxr_dist.config.optim import OptimConfig
from cxr_dist.errors import UserError, out_of_files
from cxr_dist.files import folder_aside, full_disk_says, sha256_of, sync_path

Tensors = dict[str, Tensor]
FORMAT_VERSION = 2
_READABLE = (1, 2)  # the first has no config
_MODEL, _OPTIMIZER, _STATE = _FILES = ("model.safetensors", "optimizer.safetensors", "state.json")
_NAME = re.compile(r"step-(\d{8})")


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What the validations so far have decided; part of the checkpoint."""

    validated_step: int = 0
    """Step of the last validation."""
    best_score: float | None = None
    """Highest mean validation AUC so far."""
    best_step: int = 0
    """Step of `best_score`."""
    stale: int = 0
    """Evaluations since `best_score`, for early stopping."""
    plateau_score: float | None = None
    """Highest score by more than 1e-4 (relative), as torch's ReduceLROnPlateau counts improvement."""
    plateau_bad: int = 0
    """Evaluations without improvement since the last one or the last reduction."""
    plateau_scale: float = 1.0
    """Product of all reductions of the learning rate so far."""

    def after(self, score: float | None, step: int, config: OptimConfig) -> "Progress":
        """The progress after one more validation; an undefined score counts as no improvement."""
        better = score is not None and (self.best_score is None or score > self.best_score)
        climbed = score is not None and (
            self.plateau_score is None or score > self.plateau_score * (1.0 + 1e-4)
        )
        bad = 0 if climbed else self.plateau_bad + 1
        reduce = bad > config.plateau_patience
        return Progress(
            validated_step=step,
            best_score=score if better else self.best_score,
            best_step=step if better else self.best_step,
            stale=0 if better else self.stale + 1,
            plateau_score=score if climbed else self.plateau_score,
            plateau_bad=0 if reduce else bad,
            plateau_scale=self.plateau_scale * (config.plateau_factor if reduce else 1.0),
        )


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """All that a resumed run needs beside tensors; the place in the data is the step."""

    step: int
    """Optimizer steps done."""
    progress: Progress
    manifest_sha256: str
    """Of the shards that the run reads; another manifest means another order of samples."""
    config: dict[str, Any] = field(default_factory=dict)
    """Of the job that wrote it, as config.yaml has it."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint that was found whole."""

    folder: Path
    model: Tensors
    optimizer: Tensors
    state: TrainingState


def save(
    run_dir: Path,
    state: TrainingState,
    model: Tensors,
    optimizer: Tensors,
    confirm: Callable[[], None] = lambda: None,
) -> Path:
    """Write a checkpoint (rank 0). Raises UserError on a full disk; older checkpoints are untouched.

    `confirm` is called before anything is touched, and before the checkpoint appears; what it raises ends the save.
    """
    confirm()
    final = _folder(run_dir, state.step)
    with _room_for(state.step):
        final.parent.mkdir(parents=True, exist_ok=True)
        _discard(*final.parent.glob(".*.partial"))  # of writers that were killed
        with folder_aside(final.resolve()) as aside:
            save_file({n: t.detach().cpu().contiguous() for n, t in model.items()}, aside / _MODEL)
            save_file({n: t.detach().cpu().contiguous() for n, t in optimizer.items()}, aside / _OPTIMIZER)
            plain = {"format_version": FORMAT_VERSION} | dataclasses.asdict(state)
            (aside / _STATE).write_text(json.dumps(plain, indent=1))
            sums = {name: sha256_of(aside / name) for name in _FILES}
            (aside / "sha256.json").write_text(json.dumps(sums, indent=1))
            confirm()
            _discard(final)  # a damaged one that loading skipped
    return final


def mark_best(run_dir: Path, step: int) -> None:
    """Point RUN_DIR/best to a step's checkpoint, in one rename (rank 0)."""
    best, aside = run_dir / "best", run_dir / ".best.partial"
    if best.is_dir() and not best.is_symlink():
        raise UserError(
            f"{best} is a folder where a link belongs (was the run folder copied without its links?): delete it, "
            "and start the same command again"
        )
    with _room_for(step):
        aside.unlink(missing_ok=True)
        aside.symlink_to(_folder(Path(), step))
        aside.replace(best)
        sync_path(run_dir)


def mend_best(run_dir: Path, state: TrainingState) -> None:
    """Make RUN_DIR/best what it was when this state was saved, from which a run resumes (rank 0).

    A kill may have come between a checkpoint and its mark, and a later best may be one that loading skipped. There
    is no mark where the best was pruned since.
    """
    if _folder(run_dir, state.progress.best_step).is_dir():
        mark_best(run_dir, state.progress.best_step)
    elif (run_dir / "best").is_symlink():
        (run_dir / "best").unlink()


def prune(run_dir: Path, *, newest: int, keep: int) -> None:
    """Delete all but the best and the last `keep` checkpoints up to the newest, which was just written (rank 0).

    Later ones are what the run did not resume from, because they are damaged.
    """
    best = (run_dir / "best").resolve()
    found = _newest_first(run_dir)
    kept = [folder for folder in found if folder.name <= _folder(run_dir, newest).name][:keep]
    _discard(*(folder for folder in found if folder not in kept and folder.resolve() != best))


def load(folder: Path, *, model_only: bool = False) -> Checkpoint:
    """Load and check one checkpoint; raises UserError naming what is wrong with it.

    `model_only` neither reads nor checks the optimizer's tensors, twice as many bytes as the model's.
    """
    try:
        sums = json.loads((folder / "sha256.json").read_text())
        checked = [name for name in _FILES if not (model_only and name == _OPTIMIZER)]
        wrong = [name for name in checked if sha256_of(folder / name) != sums[name]]
        if wrong:
            raise UserError(f"{folder.name}: {wrong[0]} does not have the bytes that were written (sha256)")
        plain = json.loads((folder / _STATE).read_text())
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise out_of_files(error) or UserError(
            f"{folder.name}: incomplete or unreadable ({type(error).__name__})"
        ) from None
    version = plain.pop("format_version")
    if version not in _READABLE:
        raise UserError(f"{folder.name}: of format version {version}; this release reads {_READABLE}")
    state = TrainingState(**plain | {"progress": Progress(**plain["progress"])})
    return Checkpoint(
        folder=folder,
        model=load_file(folder / _MODEL),
        optimizer={} if model_only else load_file(folder / _OPTIMIZER),
        state=state,
    )


def newest_valid(run_dir: Path, *, model_only: bool = False) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole, and why newer ones were skipped; None where there is none at all.

    `model_only` as in `load`.
    Raises UserError where there are checkpoints and none can be loaded: starting over would hide a loss.
    """
    skipped: list[str] = []
    for folder in _newest_first(run_dir):
        try:
            return load(folder, model_only=model_only), skipped
        except UserError as error:
            if out_of_files(error):
                raise
            skipped.append(str(error))
    if skipped:
        raise UserError(
            f"no checkpoint can be loaded: {'; '.join(skipped)}. Move the run folder away to start over"
        )
    return None, []


def _newest_first(run_dir: Path) -> list[Path]:
    folder = run_dir / "checkpoints"
    found = [p for p in folder.iterdir() if _NAME.fullmatch(p.name)] if folder.is_dir() else []
    return sorted(found, reverse=True)


def _folder(run_dir: Path, step: int) -> Path:
    return run_dir / "checkpoints" / f"step-{step:08d}"


@contextmanager
def _room_for(step: int) -> Iterator[None]:
    if_full = (
        f"no space left for the checkpoint of step {step}: the one before is whole; free some space "
        "and start the same command again to resume from it"
    )
    with full_disk_says(if_full):
        yield


def _discard(*paths: Path) -> None:
    """Delete folders, or whatever lies in their place; each vanishes under its name at once."""
    for path in paths:
        if os.path.lexists(path):
            aside = path if path.name.startswith(".") else path.with_name(f".{path.name}.partial")
            path.rename(aside)
            is_folder = aside.is_dir() and not aside.is_symlink()
            shutil.rmtree(aside) if is_folder else aside.unlink()
