"""Assembly of `cxr-dist predict --input`: from many cases to predictions.csv and, without --batch, pictures.

Images are read in threads, one group of cases ahead of the model, and every row is written as soon as it is
predicted, so that memory does not grow with the number of cases. A case that cannot be read gets an error in its
row; the others are still predicted.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cxr_dist.errors import UserError
from cxr_dist.evaluate.answer import answers
from cxr_dist.files import holds_something, whole_file
from cxr_dist.format.escape import csv_line
from cxr_dist.inference.case import PRIVATE, Predictor, write_case
from cxr_dist.inference.cases import CaseList, read_input
from cxr_dist.inference.given_case import NoReport, ReportOptions
from cxr_dist.inference.read_ahead import CaseGroup, Loaded, read_ahead
from cxr_dist.inference.trained import TrainedModel
from cxr_dist.model.monte_carlo import McDropout
from cxr_dist.shard.bar import image_progress

Row = dict[str, Any]


_MOST_NAMED = 10  # row numbers in the closing line


@dataclass(frozen=True, kw_only=True)
class PredictionCounts:
    """How many cases of an input were predicted, and where their table is."""

    table: Path
    rows: int
    failed: int
    without_report: int
    first_without_report: tuple[int, ...]
    """The first of their rows, counted from 1."""
    from_image_alone: bool
    """Whether the cases without a report were predicted; else they failed."""

    def __str__(self) -> str:
        text = f"{self.rows - self.failed} of {self.rows} cases predicted: {self.table}"
        if self.without_report:
            named = ", ".join(map(str, self.first_without_report))
            more = ", …" if self.without_report > len(self.first_without_report) else ""
            how = "were predicted from the image alone" if self.from_image_alone else "were not predicted"
            text += f"; {self.without_report} without a report {how} (row {named}{more})"
        if self.failed:
            text += f"; {self.failed} could not be used: see the column error"
        return text


def predict_many(
    folder: Path, source: Path, mc: McDropout, out: Path, batch_size: int | None, options: ReportOptions
) -> PredictionCounts:
    """Write OUT/predictions.csv and, if `batch_size` is None, a picture and JSON per case.

    Raises UserError if `source` is neither a folder nor a table, or `out` is not empty.
    """
    if holds_something(out):
        raise UserError("--out is not empty: choose a new or empty folder")
    predictor = Predictor.open(folder, mc)
    trained = predictor.trained
    trained.reading.check_options(options)
    source_cases = read_input(source, trained.config.model, trained.reading.rules, no_report=options.no_report)
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    table, failed = out / "predictions.csv", 0
    without_report: list[int] = []
    with (
        _table(table, _header(predictor, source_cases)) as write,
        image_progress("images", source_cases.total) as advance,
    ):
        for group in read_ahead(trained, source_cases.cases(), batch_size or 1, options):
            without_report += [named.row for named, loaded in group if _lacks_report(trained, loaded)]
            for row in _predicted(predictor, group, out if batch_size is None else None):
                write(row)
                advance()
                failed += "error" in row
    return PredictionCounts(
        table=table,
        rows=source_cases.total,
        failed=failed,
        without_report=len(without_report),
        first_without_report=tuple(without_report[:_MOST_NAMED]),
        from_image_alone=options.no_report,
    )


def _lacks_report(trained: TrainedModel, loaded: Loaded | UserError) -> bool:
    if isinstance(loaded, UserError):
        return isinstance(loaded, NoReport)
    return trained.config.model.uses_text and not trained.reading.report_of(loaded.case).sections


def _predicted(predictor: Predictor, group: CaseGroup, pictures: Path | None) -> Iterator[Row]:
    """The group's rows in order; also writes a picture and JSON per case if `pictures` is a folder."""
    samples = [loaded.sample for _, loaded in group if isinstance(loaded, Loaded)]
    if samples:
        batch = predictor.trained.batch_of(samples)
        result = predictor.answer(batch)
    place = itertools.count()
    for named, loaded in group:
        row: Row = {"row": named.row, "id": named.id, "image": named.name}
        if isinstance(loaded, UserError):
            yield row | {"error": str(loaded)}
            continue
        if pictures is not None:
            facts, view = predictor.explain(loaded.case, batch, result)
            write_case(row | facts, view, pictures / f"case-{named.row:05d}.png")
        _, warnings = predictor.trained.report_facts(loaded.case)
        yield row | result.columns(next(place)) | {"warnings": "; ".join(warnings)}


def _header(predictor: Predictor, cases: CaseList) -> list[str]:
    """The column names, taken from the answer to placeholder probabilities before the first case is predicted."""
    trained = predictor.trained
    placeholder = np.full((1, len(trained.classes)), 0.5)
    passes = placeholder[None] if predictor.mc.passes else None
    recorded = trained.calibrator, trained.thresholds, trained.sets
    result = answers(placeholder, passes, trained.task, trained.classes, *recorded)
    return ["row", *(["id"] if cases.has_ids else []), "image", "error", "warnings", *result.columns(0)]


@contextlib.contextmanager
def _table(path: Path, header: list[str]) -> Iterator[Callable[[Row], object]]:
    """Yields the function that writes a row; the file appears when the block ends without an error."""
    with whole_file(path, mode=PRIVATE) as file:
        file.write(csv_line(header).encode("utf-8"))
        yield lambda row: file.write(csv_line(row.get(name, "") for name in header).encode("utf-8"))
