"""The input of `cxr-dist predict --input`: a folder of images or a table, read as one case after the other.

All rows of a table are checked and counted before the first prediction, and are read again as they are needed, so
that memory does not grow with their number. Messages give row numbers, never file names or the content of cells.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cxr_dist.config.model import ModelConfig
from cxr_dist.errors import UserError, out_of_files
from cxr_dist.files import read_regular
from cxr_dist.format.csv_table import read_rows
from cxr_dist.inference.given_case import Case, Report, ReportOptions, SectionRules
from cxr_dist.inference.given_image import GivenImage

_IMAGES = (".png", ".jpg", ".jpeg", ".dcm")
_REPORT = ".txt"


@dataclass(frozen=True, kw_only=True)
class NamedCase:
    """One row of the input."""

    row: int
    """Counted from 1."""
    name: str
    """The image's name as the input gives it; it is written to the output table only."""
    id: str = ""
    """The value of the table's column `id`."""
    image: GivenImage | None
    report: Report | Path
    """As in `Case`, or the path of the file that holds the text, if that file exists."""

    def read(self, options: ReportOptions) -> Case:
        """The case with its report; the image is not opened yet. Raises UserError."""
        if self.image is None and not self.report:
            raise UserError("the row names no image and has no report")
        report = _text_of(self.report) if isinstance(self.report, Path) else self.report
        return Case(image=self.image, report=report, options=options)


@dataclass(frozen=True, kw_only=True)
class CaseList:
    """The cases of an input."""

    total: int
    has_ids: bool
    cases: Callable[[], Iterator[NamedCase]]
    """Starts a new pass over the cases."""


def read_input(source: Path, model: ModelConfig, rules: SectionRules, *, no_report: bool = False) -> CaseList:
    """The cases of a folder or a .csv.

    A table gives the report as text in its column `report`, or in columns that have the names of sections. Raises
    UserError if the source is neither a folder nor a table, is empty, or lacks a column. No column of reports is needed
    with `no_report`.
    """
    if source.is_dir():
        return _folder(source, model)
    if source.is_file() and source.suffix.lower() == ".csv":
        return _table(source, model, rules, no_report=no_report)
    raise UserError(
        "--input is neither a folder nor a .csv file: give a folder of PNG, JPEG or DICOM images, or a table "
        "with the columns image and report"
    )


def _text_of(report: Path) -> str:
    try:
        return read_regular(report).decode("utf-8-sig").strip()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:  # their messages quote the text or its path
        raise out_of_files(error) or UserError("the report cannot be read: expected a text file in UTF-8") from None


def _folder(folder: Path, model: ModelConfig) -> CaseList:
    endings = _IMAGES if model.uses_image else (_REPORT,)
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in endings and not path.is_dir())
    if not files:
        raise UserError(f"--input holds no file that ends in {', '.join(endings)}")

    def cases() -> Iterator[NamedCase]:
        for row, path in enumerate(files, start=1):
            report = path.with_suffix(_REPORT) if model.uses_text else ""
            yield NamedCase(row=row, name=path.name, image=path if model.uses_image else None, report=report)

    return CaseList(total=len(files), has_ids=False, cases=cases)


def _table(table: Path, model: ModelConfig, rules: SectionRules, *, no_report: bool) -> CaseList:
    header = next(read_rows(table, "--input"), [])
    sections = section_columns(header, model, rules, "--input", no_report=no_report)

    def cases() -> Iterator[NamedCase]:
        rows = read_rows(table, "--input")
        next(rows)
        for number, cells in enumerate(rows, start=1):
            cell = dict(zip(header, cells, strict=True))
            name = cell.get("image", "")
            yield NamedCase(
                row=number,
                name=name,
                id=cell.get("id", ""),
                image=table.parent / name if name and model.uses_image else None,
                report=report_in(cell, sections, number, "--input") if model.uses_text else "",
            )

    total = sum(1 for _ in cases())
    if not total:
        raise UserError("--input has no row below its column names")
    return CaseList(total=total, has_ids="id" in header, cases=cases)


def section_columns(
    header: Sequence[str], model: ModelConfig, rules: SectionRules, table: str, *, no_report: bool
) -> list[str]:
    """The columns that are named after sections; raises UserError if a column that the model needs is missing.

    `table` is the name of the table in messages.
    """
    needed = [name for name, used in (("image", model.uses_image), ("report", model.uses_text)) if used]
    absent = [name for name in needed if name not in header]
    sections = [name for name in dict.fromkeys((*rules.read, *rules.stored)) if name in header and model.uses_text]
    if no_report or set(sections) & set(rules.read):
        absent = [name for name in absent if name != "report"]
    if absent:
        # If there is no header, the first row is a patient's data, so the message does not show it.
        instead = f" (or columns named after its sections: {', '.join(rules.read)})" if model.uses_text else ""
        raise UserError(
            f"{table} has no column {absent[0]!r}; this model reads {' and '.join(needed)}{instead}: name the columns "
            "so in the first row of the table"
        )
    return sections


def report_in(cell: Mapping[str, str], sections: Sequence[str], row: int, table: str) -> Report:
    """A row's report: the column `report`, or the columns of sections; raises UserError if both are filled."""
    text = "" if "report" in sections else cell.get("report", "").strip()
    parts = {name: cell[name] for name in sections if cell[name].strip()}
    if text and parts:
        raise UserError(
            f"row {row} of {table} has text in the column report and in the column {next(iter(parts))}: give a report "
            "in one way"
        )
    return parts or text
