"""The output folder before and after: fresh, finished, left by an interrupted run, or somebody else's.

A marker file stands in it from the first byte to the manifest, so that leftovers can be told from files that
are not ours, and only ours are ever removed.
"""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cxr_dist.errors import UserError
from cxr_dist.shard.manifest import SPLITS, Manifest, load_manifest

MANIFEST = "manifest.json"
KEYS = "keys.csv"
_MARKER = ".unfinished"
_OURS = re.compile(
    rf"(({'|'.join(SPLITS)})-\d{{5,}}\.(tar|index\.npy)|{KEYS}|{re.escape(MANIFEST)})(\.partial)?"
)


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
    (out / _MARKER).touch()
    for path in out.iterdir():
        if _OURS.fullmatch(path.name):
            path.unlink()
    return None


def finish(out: Path) -> None:
    """Take the marker away: the manifest is written."""
    (out / _MARKER).unlink(missing_ok=True)


@contextmanager
def full_disk_explained(out: Path) -> Iterator[None]:
    """Turn the operating system's "no space left" into a UserError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"the disk or quota of --out {out} is full; what has its final name there is whole: free some space and "
            "run the same command again, or choose another --out"
        ) from None


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
