"""The state of an output folder: empty, finished, left by an interrupted run, or holding files of another origin.

A folder of receipts exists until the manifest is written. It distinguishes the leftovers of an interrupted run from
other files, so that only our own files are ever removed.
"""

import re
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from cxr_dist.errors import UserError
from cxr_dist.format.folds import FOLD_NAMES
from cxr_dist.format.manifest import SPLITS, Manifest, load_manifest

MANIFEST = "manifest.json"
KEYS = "keys.csv"
UNFINISHED = ".unfinished"
_SPLIT = f"({'|'.join((*SPLITS, FOLD_NAMES))})"
_NAMES = rf"((?P<stem>{_SPLIT}-\d{{5,}})\.(tar|index\.npy)|{_SPLIT}\.shards\.npy|{KEYS}|{re.escape(MANIFEST)})"
_OURS = re.compile(_NAMES)
_PARTIAL = re.compile(rf"\.{_NAMES}\.\d+\.partial")


def prepare(out: Path, recipe: dict[str, Any], source_sha256: str) -> Manifest | None:
    """Prepare `out` for writing, or return its manifest if it is already finished with this recipe and source.

    Raises UserError, without changing anything, if `out` holds the shards of another recipe or source, or other files.
    """
    if (out / MANIFEST).is_file():
        manifest = _finished(out, recipe, source_sha256)
        finish(out)  # in case an earlier run was interrupted right after it wrote the manifest
        return manifest
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: choose a new folder")
    if out.is_dir() and any(out.iterdir()) and not (out / UNFINISHED).is_dir():
        raise UserError(f"--out {out} holds files, but no {MANIFEST}: choose a new or empty folder")
    (out / UNFINISHED).mkdir(parents=True, exist_ok=True)
    return None


def keep_only(out: Path, stems: Collection[str]) -> None:
    """Remove the files of an interrupted run except these shards and their receipts."""
    for path in out.iterdir():
        ours = _OURS.fullmatch(path.name)
        if _PARTIAL.fullmatch(path.name) or (ours and ours["stem"] not in stems):
            path.unlink()
    for path in (out / UNFINISHED).iterdir():
        if path.name.removesuffix(".json") not in stems:
            path.unlink()


def finish(out: Path) -> None:
    """Remove everything that is only needed until the manifest is written."""
    if (out / UNFINISHED).is_dir():
        for path in out.iterdir():
            if _PARTIAL.fullmatch(path.name):
                path.unlink(missing_ok=True)
        shutil.rmtree(out / UNFINISHED)


def _finished(out: Path, recipe: dict[str, Any], source_sha256: str) -> Manifest:
    manifest = load_manifest(out)
    differing = [name for name in recipe if manifest.recipe.get(name) != recipe[name]]
    if differing:
        raise UserError(
            f"--out {out} holds shards of another recipe (it differs in: {', '.join(differing)}): choose another "
            "folder, or delete this one first"
        )
    if manifest.source_sha256 != source_sha256:
        raise UserError(
            f"--out {out} holds shards of this recipe made from other rows: choose another folder, or delete this "
            "one first"
        )
    return manifest
