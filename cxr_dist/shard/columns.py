"""Which column of a table is what: the `columns` of a recipe for the table reader.

Most are a column's name. An id may be a part of a column, an age may lie between two.
"""

import re
from dataclasses import dataclass, field

from cxr_dist.errors import UserError

SECTION_NAME = "[a-z][a-z0-9_]*"  # of a report


@dataclass(frozen=True, kw_only=True)
class PartOf:
    """An id that is a part of a column, e.g. the patient in `train/patient00001/study1/view1_frontal.jpg`."""

    column: str
    """Column of the table."""
    pattern: str
    """Regular expression; what it first finds is the id. Where it finds nothing, the id is unknown."""

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise UserError(f"pattern {self.pattern!r} is not a regular expression ({error})") from None


@dataclass(frozen=True, kw_only=True)
class YearsBetween:
    """An age of which a table has only the two years, each a year or a date that begins with one."""

    birth: str
    """Column with the year of birth."""
    study: str
    """Column with the year of the study."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The table reader's columns, by the name that the table's first row has."""

    image: str
    """File of the film, relative to the recipe's `images` folder."""
    patient: str | PartOf | None = None
    """Patient id, a column or a part of one; needed to split by patient."""
    study: str | PartOf | None = None
    """Study id, a column or a part of one; without it every image is a study of its own."""
    view: str | None = None
    """Projection, kept as it is written."""
    sex: str | None = None
    """F, M, female or male in upper or lower case; anything else is unknown."""
    age: str | YearsBetween | None = None
    """Years, or DICOM's 052Y; anything else is unknown. Or the columns of two years."""
    label: str | None = None
    """One column with the label, or with several: see `labels.separator`."""
    labels: tuple[str, ...] = ()
    """Or one column per class, with 1, 0, -1 (uncertain) or empty (unknown); the column is the class's name."""
    text: dict[str, str] = field(default_factory=dict)
    """Section of the report -> column that holds it."""

    def __post_init__(self) -> None:
        if (self.label is None) == (not self.labels):
            raise UserError(
                "columns needs either label (one column) or labels (a list, one column per class)"
            )
        bad = [name for name in self.text if not re.fullmatch(SECTION_NAME, name)]
        if bad:
            raise UserError(f"columns.text has section {bad[:1]}: use lower-case letters, digits and _")


def names_in(setting: str | PartOf | YearsBetween | None) -> tuple[str, ...]:
    """The names of the table's columns that a field of `Columns` takes its value from."""
    if isinstance(setting, YearsBetween):
        return (setting.birth, setting.study)
    if isinstance(setting, PartOf):
        return (setting.column,)
    return () if setting is None else (setting,)
