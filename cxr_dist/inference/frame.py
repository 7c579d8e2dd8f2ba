"""Predictions for the rows of a pandas DataFrame, as a DataFrame with the same index."""

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from cxr_dist.errors import UserError
from cxr_dist.inference.cases import NamedCase, report_in, section_columns
from cxr_dist.inference.given_case import ReportOptions
from cxr_dist.inference.given_image import GivenImage
from cxr_dist.inference.read_ahead import CaseGroup, Loaded, read_ahead
from cxr_dist.inference.trained import TrainedModel
from cxr_dist.model.monte_carlo import McDropout

if TYPE_CHECKING:
    import pandas as pd


def predict_frame(
    trained: TrainedModel, frame: "pd.DataFrame", options: ReportOptions, mc: McDropout, batch_size: int
) -> "pd.DataFrame":
    """Predict a case for each row; `LoadedModel.predict_many` documents columns and errors."""
    import pandas as pd  # slow to import, and the other predictions do without

    trained.reading.check_options(options)
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; expected 1 or more images per forward pass")
    header = [str(name) for name in frame.columns]
    rules, model = trained.reading.rules, trained.config.model
    sections = section_columns(header, model, rules, "the frame", no_report=options.no_report)

    def cases() -> Iterator[NamedCase]:
        for number, values in enumerate(frame.itertuples(index=False, name=None), start=1):
            cell = dict(zip(header, values, strict=True))
            text = {name: _text(cell[name]) for name in ("report", *sections) if name in cell}
            yield NamedCase(
                row=number,
                name="",
                image=_image(cell.get("image")) if model.uses_image else None,
                report=report_in(text, sections, number, "the frame") if model.uses_text else "",
            )

    groups = read_ahead(trained, cases(), batch_size, options)
    rows = [row for group in groups for row in _predicted(trained, group, mc)]
    found = dict.fromkeys(itertools.chain(*rows))
    columns = [name for name in found if name not in ("error", "warnings")]
    return pd.DataFrame(rows, index=frame.index, columns=[*columns, "error", "warnings"])


def _predicted(trained: TrainedModel, group: CaseGroup, mc: McDropout) -> Iterator[dict[str, Any]]:
    """Yield the group's rows in order."""
    samples = [loaded.sample for _, loaded in group if isinstance(loaded, Loaded)]
    if samples:
        result = trained.answers_alone(trained.batch_of(samples), mc)
    place = itertools.count()
    for _, loaded in group:
        if isinstance(loaded, UserError):
            yield {"error": str(loaded), "warnings": ""}
            continue
        _, warnings = trained.report_facts(loaded.case)
        yield result.columns(next(place)) | {"error": "", "warnings": "; ".join(warnings)}


def _text(cell: Any) -> str:
    """Return a cell's text; a missing value is no text."""
    return "" if _missing(cell) else str(cell)


def _image(cell: Any) -> GivenImage | None:
    """Return a cell's image; a missing value or an empty path is no image."""
    return None if _missing(cell) or (isinstance(cell, str | bytes) and not cell) else cell


def _missing(cell: Any) -> bool:
    return cell is None or type(cell).__name__ in ("NAType", "NaTType") or (isinstance(cell, float) and cell != cell)
