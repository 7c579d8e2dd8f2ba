"""Assembly of `cxr-dist predict --input`: many cases in; predictions.csv and, unless in batches, pictures out.

Films are read in threads, one group ahead of the model, and rows are written as they come: memory does not grow
with the number of cases. A case that cannot be read costs its row, and not the run.
"""

import contextlib
import csv
import io
import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cxr_dist.errors import UserError, out_of_files
from cxr_dist.evaluate.answer import answers
from cxr_dist.files import holds_something, whole_file
from cxr_dist.inference.case import PRIVATE, Predictor, write_case
from cxr_dist.inference.cases import CaseList, NamedCase, read_input
from cxr_dist.inference.trained import Case
from cxr_dist.model.monte_carlo import McDropout
from cxr_dist.shard.bar import image_progress

_THREADS = 8  # that read and shrink films, at most

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Loaded:
    """A case whose film and report are in memory."""

    case: Case
    sample: dict[str, Any]


_Group = list[tuple[NamedCase, _Loaded | str]]  # a string says why the case cannot be read


@dataclass(frozen=True, kw_only=True)
class PredictionCounts:
    """What became of an input."""

    table: Path
    rows: int
    failed: int
    without_report: int

    def __str__(self) -> str:
        said = f"{self.rows - self.failed} of {self.rows} cases predicted: {self.table}"
        if self.without_report:
            said += f"; {self.without_report} had no report"
        if self.failed:
            said += f"; {self.failed} could not be used: see the column error"
        return said


def predict_many(
    run_dir: Path, source: Path, mc: McDropout, out: Path, films_per_pass: int | None
) -> PredictionCounts:
    """Write OUT/predictions.csv and, where `films_per_pass` is None, a picture and JSON per case.

    Raises UserError for an input that is no folder or table, and for an `out` that holds something.
    """
    if holds_something(out):
        raise UserError("--out holds something already: choose a new or empty folder")
    predictor = Predictor.open(run_dir, mc)
    source_cases = read_input(source, predictor.trained.config.model)
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    table, failed = out / "predictions.csv", 0
    with (
        _table(table, _header(predictor, source_cases)) as write,
        image_progress("films", source_cases.total) as advance,
        ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool,
    ):
        for group in _read_ahead(predictor, source_cases.cases(), films_per_pass or 1, pool):
            for row in _predicted(predictor, group, out if films_per_pass is None else None):
                write(row)
                advance()
                failed += "error" in row
    return PredictionCounts(
        table=table, rows=source_cases.total, failed=failed, without_report=source_cases.without_report
    )


def _read_ahead(
    predictor: Predictor, cases: Iterator[NamedCase], size: int, pool: ThreadPoolExecutor
) -> Iterator[_Group]:
    """Groups of `size` cases; the next one is being read while the caller is at work on this one."""

    def read(named: NamedCase) -> _Loaded | str:
        try:
            case = named.read()
            return _Loaded(case=case, sample=predictor.trained.sample(case))
        except UserError as error:
            return str(out_of_files(error) or error)

    def submitted() -> list[Any]:
        return [(case, pool.submit(read, case)) for case in itertools.islice(cases, size)]

    group = submitted()
    while group:
        following = submitted()
        yield [(case, future.result()) for case, future in group]
        group = following


def _predicted(predictor: Predictor, group: _Group, pictures: Path | None) -> Iterator[Row]:
    """The group's rows, in order; draws a case where `pictures` is a folder."""
    loaded = [found for _, found in group if isinstance(found, _Loaded)]
    if loaded:
        batch = predictor.trained.batch_of([found.sample for found in loaded])
        said = predictor.answer(batch)
    place = itertools.count()
    for named, found in group:
        row: Row = {"row": named.row, "id": named.id, "image": named.name}
        if isinstance(found, str):
            yield row | {"error": found}
            continue
        if pictures is not None:
            facts, view = predictor.explain(found.case, batch, said)
            facts = {"row": named.row, "id": named.id, "image": named.name} | facts
            write_case(facts, view, pictures / f"case-{named.row:05d}.png")
        yield row | said.columns(next(place))


def _header(predictor: Predictor, cases: CaseList) -> list[str]:
    """Column names, known before the first answer: of a made one."""
    trained = predictor.trained
    made = np.full((1, len(trained.classes)), 0.5)
    passes = made[None] if predictor.mc.passes else None
    named = ["row", *(["id"] if cases.has_ids else []), "image", "error"]
    return [
        *named,
        *answers(made, passes, trained.task, trained.classes, trained.temperature).columns(0),
    ]


@contextlib.contextmanager
def _table(path: Path, header: list[str]) -> Iterator[Callable[[Row], None]]:
    """Yields the function that writes a row; the file appears when the block ends without an error."""
    with whole_file(path, mode=PRIVATE) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        writer = csv.DictWriter(text, header, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        yield writer.writerow
        text.detach()  # flushes, and leaves the file open to be made durable
