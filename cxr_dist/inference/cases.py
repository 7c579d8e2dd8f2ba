"""What `cxr-dist predict --input` reads: a folder of films or a table in, cases one after the other out.

The rows of a table are checked and counted before the first is predicted, and read again as they are needed, so
that memory does not grow with their number. Messages name rows, never files or cells.
"""

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cxr_dist.config.model import ModelConfig
from cxr_dist.errors import UserError
from cxr_dist.inference.trained import Case

_FILMS = (".png", ".jpg", ".jpeg")
_REPORT = ".txt"


@dataclass(frozen=True, kw_only=True)
class NamedCase:
    """One row of the input."""

    row: int
    """Counted from 1."""
    name: str
    """The film's name as the input gives it; for the output table alone."""
    id: str = ""
    """The table's own `id`."""
    image: Path | None
    report: str | Path
    """The text, or the file that may hold it."""

    def read(self) -> Case:
        """The case with its report read; raises UserError. Whether the film can be read shows later."""
        if self.image is None and not self.report:
            raise UserError("the row names no film and has no report")
        return Case(image=self.image, report=_text_of(self.report))


@dataclass(frozen=True, kw_only=True)
class CaseList:
    """The cases of an input, which can be gone through again and again."""

    total: int
    without_report: int
    """How many have no report, where the model reads one."""
    has_ids: bool
    cases: Callable[[], Iterator[NamedCase]]


def read_input(source: Path, model: ModelConfig) -> CaseList:
    """The cases of a folder or a .csv; raises UserError for one that is neither, is empty, or lacks a column."""
    if source.is_dir():
        return _folder(source, model)
    if source.is_file() and source.suffix.lower() == ".csv":
        return _table(source, model)
    raise UserError(
        "--input is neither a folder nor a .csv file: give a folder of PNG or JPEG films, or a table with the "
        "columns image and report"
    )


def _text_of(report: str | Path) -> str:
    if isinstance(report, str):
        return report
    try:
        return report.read_text(encoding="utf-8-sig").strip() if report.is_file() else ""
    except (OSError, UnicodeDecodeError):  # whose message quotes the text
        raise UserError("the report cannot be read: expected a text file in UTF-8") from None


def _folder(folder: Path, model: ModelConfig) -> CaseList:
    endings = _FILMS if model.uses_image else (_REPORT,)
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in endings and path.is_file())
    if not files:
        raise UserError(f"--input holds no file that ends in {', '.join(endings)}")

    def cases() -> Iterator[NamedCase]:
        for row, path in enumerate(files, start=1):
            report = path.with_suffix(_REPORT) if model.uses_text else ""
            image = path if model.uses_image else None
            yield NamedCase(row=row, name=path.name, image=image, report=report)

    lacking = 0
    if model.uses_text:
        lacking = sum(not path.with_suffix(_REPORT).is_file() for path in files)
    return CaseList(total=len(files), without_report=lacking, has_ids=False, cases=cases)


def _table(table: Path, model: ModelConfig) -> CaseList:
    header = next(_rows(table), [])
    needed = [n for n, used in (("image", model.uses_image), ("report", model.uses_text)) if used]
    absent = [name for name in needed if name not in header]
    if absent:
        # Where the names are missing, the first row is somebody's data: it is not shown.
        raise UserError(
            f"--input has no column {absent[0]!r}; this model reads {' and '.join(needed)}: name the columns so "
            "in the first row of the table"
        )

    def cases() -> Iterator[NamedCase]:
        rows = _rows(table)
        next(rows)
        for number, cells in enumerate(rows, start=1):
            if len(cells) != len(header):
                raise UserError(
                    f"row {number} of --input has {len(cells)} cells, and the first row names {len(header)}: "
                    "put a cell that holds a comma in double quotes"
                )
            yield _case_of(number, dict(zip(header, cells, strict=True)), table.parent, model)

    total = lacking = 0
    for case in cases():
        total, lacking = total + 1, lacking + (model.uses_text and not case.report)
    if not total:
        raise UserError("--input has no row below its column names")
    return CaseList(total=total, without_report=lacking, has_ids="id" in header, cases=cases)


def _case_of(number: int, cells: dict[str, str], folder: Path, model: ModelConfig) -> NamedCase:
    name = cells.get("image", "")
    return NamedCase(
        row=number,
        name=name,
        id=cells.get("id", ""),
        image=folder / name if name and model.uses_image else None,
        report=cells["report"].strip() if model.uses_text else "",
    )


def _rows(table: Path) -> Iterator[list[str]]:
    """Rows of a .csv, blank lines left out; an error does not quote a cell, as the csv module's own would."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            yield from (cells for cells in csv.reader(file, strict=True) if cells)
    except (csv.Error, UnicodeDecodeError, OSError):
        raise UserError(
            "--input cannot be read as a table: expected comma-separated values in UTF-8, with a first row of names"
        ) from None
