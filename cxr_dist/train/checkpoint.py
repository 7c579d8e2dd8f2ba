"""Checkpoints: one format for every engine and world size, whole or absent, checked on load.

    checkpoints/step-00001200/  model.safetensors  optimizer.safetensors  state.json  sha256.json

A folder is written aside, fsynced and renamed; old ones are deleted last, so that there is always a loadable
one. Optimizer moments are stored by parameter name. No pickle anywhere.
"""

import dataclasses
import errno
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from cxr_dist.distributed.backend import Tensors
from cxr_dist.errors import UserError
from cxr_dist.files import sha256_of, sync_path
from cxr_dist.train.schedule import Progress

FORMAT_VERSION = 1
_OPTIMIZER = "optimizer.safetensors"
_NAME = re.compile(r"step-(\d{8})")


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """All that a resumed run needs beside tensors; the place in the data is the step."""

    step: int
    """Optimizer steps done."""
    progress: Progress
    manifest_sha256: str
    """Of the shards that the run reads; another manifest means another order of samples."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint that was found whole."""

    folder: Path
    model: Tensors
    optimizer: Tensors
    state: TrainingState


def save(run_dir: Path, state: TrainingState, model: Tensors, optimizer: Tensors) -> Path:
    """Write a checkpoint (rank 0). Raises UserError on a full disk; older checkpoints are untouched."""
    folder = run_dir / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    final, aside = folder / f"step-{state.step:08d}", folder / f".step-{state.step:08d}.partial"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        save_file({n: t.detach().cpu().contiguous() for n, t in model.items()}, aside / "model.safetensors")
        save_file({n: t.detach().cpu().contiguous() for n, t in optimizer.items()}, aside / _OPTIMIZER)
        plain = {"format_version": FORMAT_VERSION} | dataclasses.asdict(state)
        (aside / "state.json").write_text(json.dumps(plain, indent=1))
        sums = {path.name: sha256_of(path) for path in sorted(aside.iterdir())}
        (aside / "sha256.json").write_text(json.dumps(sums, indent=1))
        for path in aside.iterdir():
            sync_path(path)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
            raise UserError(
                f"no space left for the checkpoint of step {state.step}: the one before is whole; free some space "
                "and start the same command again to resume from it"
            ) from None
        raise
    if final.exists():  # a damaged one that loading skipped
        shutil.rmtree(final)
    aside.rename(final)
    sync_path(folder)
    return final


def mark_best(run_dir: Path, step: int) -> None:
    """Point RUN_DIR/best to a step's checkpoint, in one rename (rank 0)."""
    aside = run_dir / ".best.partial"
    aside.unlink(missing_ok=True)
    aside.symlink_to(Path("checkpoints") / f"step-{step:08d}")
    aside.replace(run_dir / "best")


def prune(run_dir: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints and the best (rank 0)."""
    best = (run_dir / "best").resolve()
    for folder in _newest_first(run_dir)[keep:]:
        if folder.resolve() != best:
            shutil.rmtree(folder)


def load(folder: Path, *, model_only: bool = False) -> Checkpoint:
    """Load and check one checkpoint; raises UserError naming what is wrong with it.

    `model_only` neither reads nor checks the optimizer's tensors, twice as many bytes as the model's.
    """
    try:
        sums = json.loads((folder / "sha256.json").read_text())
        if model_only:
            del sums[_OPTIMIZER]
        wrong = [name for name, expected in sums.items() if sha256_of(folder / name) != expected]
        if wrong:
            raise UserError(f"{folder.name}: {wrong[0]} does not have the bytes that were written (sha256)")
        plain = json.loads((folder / "state.json").read_text())
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{folder.name}: incomplete or unreadable ({type(error).__name__})") from None
    if plain.pop("format_version") != FORMAT_VERSION:
        raise UserError(f"{folder.name}: of another format version; this release reads {FORMAT_VERSION}")
    state = TrainingState(**plain | {"progress": Progress(**plain["progress"])})
    return Checkpoint(
        folder=folder,
        model=load_file(folder / "model.safetensors"),
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
