"""comparison.json in the folder of a comparison, which is not overwritten by a comparison of other runs."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cxr_dist.config.decode import parse_record
from cxr_dist.errors import UserError
from cxr_dist.evaluate.compare import Comparison
from cxr_dist.evaluate.metrics import strict_json
from cxr_dist.evaluate.run_result import RunResult
from cxr_dist.files import write_whole

_NAME = "comparison.json"
_OUT_OF_FOLD = "out_of_fold"
_LONGEST_NAME = 100  # characters of a folder's name


def write_comparison(comparison: Comparison, out: Path) -> None:
    """Write OUT/comparison.json, with the folder of each run relative to `out`, so that both can be moved together.

    The out-of-fold predictions of a cross-validation go to OUT/out_of_fold/, with their metrics, as a run's do.
    """
    record = comparison.to_dict()
    for number, (entry, run) in enumerate(zip(record["runs"], comparison.runs, strict=True), start=1):
        folders = _relative(run.folders, out)
        if not run.folds:
            entry["folder"] = folders[0]
            continue
        place = f"{_OUT_OF_FOLD}/{number}-{_safe(run.name)}"
        entry |= {"folders": folders, "out_of_fold": entry["out_of_fold"] | {"folder": place}}
        _write_out_of_fold(run, out / place)
    write_whole(out / _NAME, strict_json(record))


def _safe(name: str) -> str:
    """A name that is valid for a folder on any file system."""
    return re.sub(r"[^A-Za-z0-9._=,+-]+", "-", name).strip("-.")[:_LONGEST_NAME]


def _write_out_of_fold(run: RunResult, folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    run.predictions.write_csv(folder / "predictions.csv")
    write_whole(folder / "metrics.json", strict_json(run.evaluation))


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
    return {str(folder) for run in record["runs"] for folder in run.get("folders", [run.get("folder")])}


def _described(record: dict[str, Any]) -> str:
    return f"{', '.join(str(run.get('name')) for run in record['runs'])} on split {record.get('split')}"


def _read(path: Path) -> dict[str, Any] | None:
    """The record, or None if the file is missing or is no comparison."""
    try:
        record = parse_record(path, path.name)
    except UserError:
        return None
    runs = record.get("runs")
    return record if isinstance(runs, list) and all(isinstance(run, dict) for run in runs) else None
