"""The output folder before and after: fresh, finished, left by an interrupted run, or somebody else's.

A marker file stands in it from the first byte to the manifest, so that leftovers can be told from files that
are not ours, and only ours are ever removed.
"""

import re
from pathlib import Path
from typing import Any

from cxr_dist.errors import UserError
from cxr_dist.files import write_whole
from cxr_dist.shard.manifest import SPLITS, Manifest, load_manifest

MANIFEST = "manifest.json"
KEYS = "keys.csv"
_MARKER = ".unfinished"
_NAMES = rf"(({'|'.join(SPLITS)})-\d{{5,}}\.(tar|index\.npy)|{KEYS}|{re.escape(MANIFEST)})"
_OURS = re.compile(rf"{_NAMES}|\.{_NAMES}\.\d+\.partial")


def prepare(out: Path, recipe: dict[str, Any], source_sha256: str) -> Manifest | None:
    """Make `out` ready to be written, or return its manifest where it is finished with this recipe and source.

    Raises UserError, touching nothing, where `out` holds another recipe's shards, or files that are not ours.
    """
    if (out / MANIFEST).is_file():
        return _finished(out, recipe, source_sha256)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: choose a new folder")
    if out.is_dir() and any(out.iterdir()) and not (out / _MARKER).is_file():
        raise UserError(f"--out {out} holds files, but no {MANIFEST}: choose a new or an empty folder")
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / _MARKER, "cxr-dist shard is writing here, or was interrupted: run it again\n")
    for path in out.iterdir():
        if _OURS.fullmatch(path.name):
            path.unlink()
    return None


def finish(out: Path) -> None:
    """Take the marker away: the manifest is written."""
    (out / _MARKER).unlink(missing_ok=True)


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
