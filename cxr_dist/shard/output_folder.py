"""The output folder before and after: fresh, finished, left by an interrupted run, or somebody else's.

A folder of receipts stands in it from the first byte to the manifest, so that leftovers can be told from files
that are not ours, and only ours are ever removed.
"""

import re
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from cxr_dist.errors import UserError
from cxr_dist.format.manifest import SPLITS, Manifest, load_manifest

MANIFEST = "manifest.json"
KEYS = "keys.csv"
UNFINISHED = ".unfinished"
_SPLIT = f"({'|'.join(SPLITS)})"
_NAMES = (
    rf"((?P<stem>{_SPLIT}-\d{{5,}})\.(tar|index\.npy)|{_SPLIT}\.shards\.npy|{KEYS}|{re.escape(MANIFEST)})"
)
_OURS = re.compile(_NAMES)
_PARTIAL = re.compile(rf"\.{_NAMES}\.\d+\.partial")


def prepare(out: Path, recipe: dict[str, Any], source_sha256: str) -> Manifest | None:
    """Make `out` ready to be written, or return its manifest where it is finished with this recipe and source.

    Raises UserError, touching nothing, where `out` holds another recipe's shards, or files that are not ours.
    """
    if (out / MANIFEST).is_file():
        manifest = _finished(out, recipe, source_sha256)
        finish(out)  # a run that was interrupted after its manifest left this to us
        return manifest
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: choose a new folder")
    if out.is_dir() and any(out.iterdir()) and not (out / UNFINISHED).is_dir():
        raise UserError(f"--out {out} holds files, but no {MANIFEST}: choose a new or an empty folder")
    (out / UNFINISHED).mkdir(parents=True, exist_ok=True)
    return None


def keep_only(out: Path, stems: Collection[str]) -> None:
    """Remove what an interrupted run left, but for these shards and their receipts."""
    for path in out.iterdir():
        named = _OURS.fullmatch(path.name)
        if _PARTIAL.fullmatch(path.name) or (named and named["stem"] not in stems):
            path.unlink()
    for path in (out / UNFINISHED).iterdir():
        if path.name.removesuffix(".json") not in stems:
            path.unlink()


def finish(out: Path) -> None:
    """Take away all but the shard folder itself: the manifest is written."""
    if (out / UNFINISHED).is_dir():
        for path in out.iterdir():
            if _PARTIAL.fullmatch(path.name):
                path.unlink(missing_ok=True)
        shutil.rmtree(out / UNFINISHED)


def _finished(out: Path, recipe: dict[str, Any], source_sha256: str) -> Manifest:
    manifest = load_manifest(out)
    other = [name for name in recipe if manifest.recipe.get(name) != recipe[name]]
    if other:
        raise UserError(
            f"--out {out} holds shards of another recipe (it differs in: {', '.join(other)}): choose another folder, "
            "or delete that one first"
        )
    if manifest.source_sha256 != source_sha256:
        raise UserError(
            f"--out {out} holds shards of this recipe made from other rows: choose another folder, or delete that "
            "one first"
        )
    return manifest
