"""Saving and loading checkpoints: one format for every engine and world size, verified when it is loaded.

    checkpoints/step-00001200/  model.safetensors  optimizer.safetensors  state.json  sha256.json

A checkpoint is written to a temporary folder, fsynced and renamed, and old ones are deleted last, so that there is
always one that can be loaded. Optimizer moments are stored by parameter name. There is no pickle, and no generator
state, because every random number of a run is a function of (seed, epoch, step, lane, sample).
"""

import contextlib
import dataclasses
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from cxr_dist.config.optim import OptimConfig
from cxr_dist.errors import UserError, out_of_files
from cxr_dist.files import folder_aside, full_disk_says, read_regular, sha256_of, sync_path

_FORMAT_VERSION = 3
_READABLE = (1, 2, 3)  # version 1 has no config, version 2 no meaning
_MODEL, _OPTIMIZER, _STATE = _FILES = ("model.safetensors", "optimizer.safetensors", "state.json")
_NAME = re.compile(r"step-(\d{8})")


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Results of the validations so far: the best score, early stopping and the plateau schedule."""

    validated_step: int = 0
    """Step of the last validation."""
    best_score: float | None = None
    """Highest mean validation AUC so far."""
    best_step: int = 0
    """Step of `best_score`."""
    stale: int = 0
    """Validations since `best_step`, for early stopping."""
    plateau_score: float | None = None
    """Best score by the rule of torch's ReduceLROnPlateau: an improvement is one of more than 1e-4 (relative)."""
    plateau_bad: int = 0
    """Validations since the last such improvement or the last reduction of the learning rate."""
    plateau_scale: float = 1.0
    """Product of all reductions of the learning rate so far."""

    def after(self, score: float | None, step: int, config: OptimConfig) -> "Progress":
        """The progress after another validation. An undefined score (None) counts as no improvement."""
        better = score is not None and (self.best_score is None or score > self.best_score)
        plateau = self.plateau_score
        climbed = score is not None and (plateau is None or score > plateau * (1.0 + 1e-4))
        bad = 0 if climbed else self.plateau_bad + 1
        reduce = bad > config.plateau_patience
        return Progress(
            validated_step=step,
            best_score=score if better else self.best_score,
            best_step=step if better else self.best_step,
            stale=0 if better else self.stale + 1,
            plateau_score=score if climbed else plateau,
            plateau_bad=0 if reduce else bad,
            plateau_scale=self.plateau_scale * (config.plateau_factor if reduce else 1.0),
        )


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """What a resumed run needs besides the tensors. The position in the data follows from the step."""

    step: int
    """Number of completed optimizer steps."""
    progress: Progress
    manifest_sha256: str
    """SHA-256 of the shards' manifest. A different manifest means a different order of samples."""
    config: dict[str, Any] = field(default_factory=dict)
    """Configuration of the job that wrote the checkpoint, as in config.yaml."""
    meaning: dict[str, Any] = field(default_factory=dict)
    """What the model's numbers depend on besides its weights, as run/meaning.py records it."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint that was loaded and verified."""

    folder: Path
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: TrainingState


def save(
    run_dir: Path,
    state: TrainingState,
    model: dict[str, Tensor],
    optimizer: dict[str, Tensor],
    confirm: Callable[[], None] = lambda: None,
) -> Path:
    """Write a checkpoint (rank 0). Raises UserError if the disk is full; older checkpoints stay untouched.

    `confirm` is called before any file is written and again before the final rename. An error that it raises aborts the
    save.
    """
    confirm()
    final = _folder(run_dir, state.step)
    with _room_for(state.step):
        final.parent.mkdir(parents=True, exist_ok=True)
        _discard(*final.parent.glob(".*.partial"))  # left by a process that was killed
        with folder_aside(final.resolve()) as aside:
            save_file({n: t.detach().cpu().contiguous() for n, t in model.items()}, aside / _MODEL)
            save_file({n: t.detach().cpu().contiguous() for n, t in optimizer.items()}, aside / _OPTIMIZER)
            plain = {"format_version": _FORMAT_VERSION} | dataclasses.asdict(state)
            (aside / _STATE).write_text(json.dumps(plain, indent=1))
            sums = {name: sha256_of(aside / name) for name in _FILES}
            (aside / "sha256.json").write_text(json.dumps(sums, indent=1))
            confirm()
            _discard(final)  # a damaged checkpoint of the same step, which loading skipped
    return final


def mark_best(run_dir: Path, step: int) -> None:
    """Point the link RUN_DIR/best to the checkpoint of a step, atomically (rank 0)."""
    best, aside = run_dir / "best", run_dir / ".best.partial"
    if best.is_dir() and not best.is_symlink():
        raise UserError(
            f"{best} is a folder, but should be a symbolic link (was the run folder copied without its links?): delete "
            "it and start the same command again"
        )
    with _room_for(step):
        aside.unlink(missing_ok=True)
        aside.symlink_to(_folder(Path(), step))
        aside.replace(best)
        sync_path(run_dir)


def mend_best(run_dir: Path, state: TrainingState) -> None:
    """Set RUN_DIR/best to what it was when this state was saved, before the run resumes from it (rank 0).

    The run may have been killed after it saved a checkpoint and before it moved the link, or the link may point to a
    later checkpoint that is damaged. The link is removed if the best checkpoint was deleted.
    """
    if _folder(run_dir, state.progress.best_step).is_dir():
        mark_best(run_dir, state.progress.best_step)
    elif (run_dir / "best").is_symlink():
        (run_dir / "best").unlink()


def prune(run_dir: Path, *, newest: int, keep: int) -> None:
    """Delete all checkpoints except the best and the last `keep` up to `newest`, which was just written (rank 0).

    Checkpoints of later steps are deleted too: the run did not resume from them because they are damaged.
    """
    best = (run_dir / "best").resolve()
    folders = _newest_first(run_dir)
    kept = [folder for folder in folders if folder.name <= _folder(run_dir, newest).name][:keep]
    _discard(*(folder for folder in folders if folder not in kept and folder.resolve() != best))


def load(folder: Path, *, model_only: bool = False) -> Checkpoint:
    """Load and verify one checkpoint. Raises UserError, which says what is wrong with the checkpoint.

    With `model_only` the optimizer's tensors, twice as many bytes as the model's, are neither read nor verified.
    """
    plain = _plain_state(folder, [name for name in _FILES if not (model_only and name == _OPTIMIZER)])
    version = plain.pop("format_version")
    if version not in _READABLE:
        raise UserError(f"{folder.name} has format version {version}, but this release reads versions {_READABLE}")
    state = TrainingState(**plain | {"progress": Progress(**plain["progress"])})
    return Checkpoint(
        folder=folder,
        model=load_file(folder / _MODEL),
        optimizer={} if model_only else load_file(folder / _OPTIMIZER),
        state=state,
    )


def _plain_state(folder: Path, checked: Sequence[str]) -> dict[str, Any]:
    """The content of state.json, after these files have been verified."""
    try:
        sums = json.loads(read_regular(folder / "sha256.json"))
        wrong = [name for name in checked if sha256_of(folder / name) != sums[name]]
        if wrong:
            raise UserError(f"{folder.name}: {wrong[0]} does not have the bytes that were written (sha256)")
        return dict(json.loads(read_regular(folder / _STATE)))
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise out_of_files(error) or UserError(
            f"{folder.name}: incomplete or unreadable ({type(error).__name__})"
        ) from None


def has_checkpoint(run_dir: Path) -> bool:
    """Whether the run has written a checkpoint, damaged or not, so that it does not begin anew."""
    return bool(_newest_first(run_dir))


def newest_meaning(run_dir: Path) -> dict[str, Any]:
    """`TrainingState.meaning` of the newest checkpoint whose state is undamaged; empty if there is none."""
    for folder in _newest_first(run_dir):
        with contextlib.suppress(UserError):
            return dict(_plain_state(folder, [_STATE]).get("meaning", {}))
    return {}


def newest_valid(run_dir: Path, *, model_only: bool = False) -> tuple[Checkpoint | None, list[str]]:
    """The newest valid checkpoint, or None if there are no checkpoints, and the reasons why newer ones were skipped.

    `model_only` is as in `load`. Raises UserError if there are checkpoints but none can be loaded, because starting
    from scratch would hide the loss.
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
        reasons = "; ".join(skipped)
        raise UserError(f"no checkpoint can be loaded: {reasons}. Move the run folder away to start over")
    return None, []


def best(run_dir: Path) -> Checkpoint:
    """The checkpoint that validation chose, without its optimizer; the newest one if there was no validation."""
    chosen = run_dir / "best"
    if chosen.exists():
        try:
            return load(chosen.resolve(), model_only=True)
        except UserError as error:
            raise UserError(
                f"the best checkpoint of {run_dir} cannot be used: {error}. Restore it from a copy, or delete "
                f"{chosen.name} there to use the newest checkpoint that is undamaged"
            ) from None
    newest, _ = newest_valid(run_dir, model_only=True)
    if newest is None:
        raise UserError(f"{run_dir} has no checkpoint yet: run `cxr-dist train` first")
    return newest


def _newest_first(run_dir: Path) -> list[Path]:
    folder = run_dir / "checkpoints"
    named = [p for p in folder.iterdir() if _NAME.fullmatch(p.name)] if folder.is_dir() else []
    return sorted(named, reverse=True)


def _folder(run_dir: Path, step: int) -> Path:
    return run_dir / "checkpoints" / f"step-{step:08d}"


def _room_for(step: int) -> AbstractContextManager[None]:
    return full_disk_says(
        f"no space left for the checkpoint of step {step}: the previous one is intact; free some space and start the "
        "same command again to resume from it"
    )


def _discard(*paths: Path) -> None:
    """Delete folders or files. Each is renamed first, so that no half-deleted checkpoint keeps its name."""
    for path in paths:
        if os.path.lexists(path):
            aside = path if path.name.startswith(".") else path.with_name(f".{path.name}.partial")
            path.rename(aside)
            is_folder = aside.is_dir() and not aside.is_symlink()
            shutil.rmtree(aside) if is_folder else aside.unlink()
