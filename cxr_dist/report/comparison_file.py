"""comparison.json in the folder of a comparison, which is not overwritten by a comparison of other runs."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cxr_dist.errors import UserError
from cxr_dist.evaluate.compare import Comparison
from cxr_dist.evaluate.metrics import strict_json
from cxr_dist.files import write_whole

_NAME = "comparison.json"


def write_comparison(comparison: Comparison, out: Path, run_dirs: Sequence[Path]) -> None:
    """Write OUT/comparison.json, with the folder of each run relative to `out`, so that both can be moved together."""
    record = comparison.to_dict()
    for run, folder in zip(record["runs"], _relative(run_dirs, out), strict=True):
        run["folder"] = folder
    write_whole(out / _NAME, strict_json(record))


def refuse_other_comparison(out: Path, run_dirs: Sequence[Path], split: str) -> None:
    """Raise UserError if `out` holds a comparison of other runs or of another split, or a page without its record."""
    if not (out / _NAME).exists() and not (out / "report.html").exists():
        return
    there = _read(out / _NAME)
    found = None if there is None else (there.get("split"), _folders(there))
    if found != (split, set(_relative(run_dirs, out))):
        what = "a page or record of another kind" if there is None else f"the comparison of {_described(there)}"
        raise UserError(f"{out} holds {what}: choose another --out, or replace it with --overwrite")


def _relative(run_dirs: Sequence[Path], out: Path) -> list[str]:
    return [os.path.relpath(folder.resolve(), out.resolve()) for folder in run_dirs]


def _folders(record: dict[str, Any]) -> set[str]:
    """The runs' folders; records of earlier versions have none, and are then other runs."""
    return {str(run.get("folder")) for run in record["runs"]}


def _described(record: dict[str, Any]) -> str:
    return f"{', '.join(str(run.get('name')) for run in record['runs'])} on split {record.get('split')}"


def _read(path: Path) -> dict[str, Any] | None:
    """The record, or None if the file is missing or is no comparison."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    runs = record.get("runs") if isinstance(record, dict) else None
    return record if isinstance(runs, list) and all(isinstance(run, dict) for run in runs) else None
