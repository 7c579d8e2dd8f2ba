"""The sections `dicom` and `join` of a recipe: which DICOM tag holds what.

Tags go by the keywords of the standard, such as StudyInstanceUID. Nothing but what is named here is read from a header
into a record, and dates and names of persons cannot be named.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Join:
    """How a row of the table finds its DICOM files."""

    column: str
    """Column of the table, e.g. accession."""
    tag: str
    """The tag with the same value, e.g. AccessionNumber. Several files may have it, such as the views of a study."""


@dataclass(frozen=True, kw_only=True)
class DicomTags:
    """The tags of reader dicom, by keyword."""

    patient: str = "PatientID"
    """Patient id; shards have its hash."""
    study: str = "StudyInstanceUID"
    """Study id; shards have its hash."""
    view: str | None = None
    """Projection, e.g. ViewPosition; stored as written."""
    sex: str | None = None
    """F or M, e.g. PatientSex; anything else is unknown."""
    age: str | None = None
    """Age at the time of the study, e.g. PatientAge (052Y). It is never computed from dates."""
    burned_in: Literal["leave_out", "keep"] = "leave_out"
    """What to do with images whose BurnedInAnnotation is YES: text in the pixels may name the patient."""
