"""The `columns` section of a recipe: which column of a table holds what.

Most settings are a column name. An id can be a part of a column, and an age the difference of two years.
"""

import re
from dataclasses import dataclass, field

from cxr_dist.errors import UserError

SECTION_NAME = "[a-z][a-z0-9_]*"
"""Regular expression for the name of a report section."""


@dataclass(frozen=True, kw_only=True)
class PartOf:
    """An id that is part of a column, e.g. the patient in `train/patient00001/study1/view1_frontal.jpg`."""

    column: str
    pattern: str
    """Regular expression; its first match is the id. Without a match the id is unknown."""

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise UserError(f"pattern {self.pattern!r} is not a regular expression ({error})") from None


@dataclass(frozen=True, kw_only=True)
class YearsBetween:
    """An age computed from two columns, each with a year or a date that begins with a year."""

    birth: str
    """Column with the year of birth."""
    study: str
    """Column with the year of the study."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns of the table, by their names in its first row. Reader dicom takes only label, labels and text."""

    image: str = ""
    """Image file, relative to the recipe's `images` folder. table: required."""
    patient: str | PartOf | None = None
    """Patient id, a column or part of one; required to split by patient."""
    study: str | PartOf | None = None
    """Study id, a column or part of one; if omitted, every image is a separate study."""
    view: str | None = None
    """Projection, stored as written."""
    sex: str | None = None
    """F, M, female or male in upper or lower case; anything else is unknown."""
    age: str | YearsBetween | None = None
    """Age in years, or in DICOM's notation 052Y; anything else is unknown. Or the columns of two years."""
    label: str | None = None
    """A single column with one label, or with several (see `labels.separator`)."""
    labels: tuple[str, ...] = ()
    """One column per class, named like the class, with 1, 0, -1 (uncertain) or empty (unknown)."""
    text: dict[str, str] = field(default_factory=dict)
    """Report section -> column."""

    def __post_init__(self) -> None:
        if (self.label is None) == (not self.labels):
            raise UserError("columns needs either label (one column) or labels (a list, one column per class)")
        twice = [name for name in self.labels if self.labels.count(name) > 1]
        if twice:
            raise UserError(f"columns.labels names the column {twice[0]!r} twice: each column is a class")
        bad = [name for name in self.text if not re.fullmatch(SECTION_NAME, name)]
        if bad:
            raise UserError(f"columns.text has section {bad[:1]}: use lower-case letters, digits and _")


def names_in(setting: str | PartOf | YearsBetween | None) -> tuple[str, ...]:
    """The columns of the table that a field of `Columns` refers to."""
    if isinstance(setting, YearsBetween):
        return (setting.birth, setting.study)
    if isinstance(setting, PartOf):
        return (setting.column,)
    return () if setting is None else (setting,)
