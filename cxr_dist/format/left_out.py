"""The reasons why a source row is in no split: the recipe excluded it, or it failed.

The manifest counts rows by reason, so the texts are part of the file format. Only failures count against the limit
that stops a run, because they show that the source does not match the recipe.
"""

from collections.abc import Mapping

NOT_SELECTED = "not selected by the recipe's where"
OTHER_VIEW = "not of the recipe's views"
UNKNOWN_VIEW = "view not known to be frontal or lateral"
DROPPED_LABEL = "label value dropped by the recipe"
NO_CLASS = "label value in no class"
TOO_RARE = "label value on fewer images than labels.min_count"
MORE_IMAGES = "more films of a study than max_views"
NO_LABEL = "no label"

NO_PATIENT = "no patient or study id"
NO_SPLIT = "not in the official split"
MISSING_IMAGE = "image file missing"
UNREADABLE_IMAGE = "image not readable"
TOO_LARGE_IMAGE = "image has too many pixels"
UNREADABLE_REPORT = "report not readable"
CONTRADICTION = "films of one study with different labels or reports"

DICOM_MODALITY = "DICOM file of another modality than CR, DX or RG"
DICOM_COLOUR = "DICOM image in colour"
DICOM_FRAMES = "DICOM image of several frames"
DICOM_WITHOUT_IMAGE = "DICOM file without an image"
DICOM_BITS = "DICOM image of other than 8 to 16 bits"
DICOM_SYNTAX = "DICOM image in a transfer syntax that cannot be read"
DICOM_BURNED_IN = "DICOM image with text burned into it"
DICOM_NOT_IN_TABLE = "DICOM file of which the table has no row"
ROW_WITHOUT_DICOM = "row of the table without a DICOM file"
"""A file that is not a grey radiograph is no failure, because a hospital's folder has other files too."""

BOX_WITHOUT_SIZE = "box without four numbers, or without a positive width and height"
BOX_UNKNOWN_IMAGE = "box on an image that the source does not have"
BOX_UNREADABLE_IMAGE = "box on an image that is missing or not readable"
BOX_OUTSIDE = "box that reaches out of its image"
BOX_NO_CLASS = "box of a label that is no class"
BOX_IMAGE_LEFT_OUT = "box on an image that was left out"
"""Reasons why a row of the recipe's table of boxes is in no sample; the manifest counts them in `boxes`."""

FAILURES = frozenset(
    {NO_PATIENT, NO_SPLIT, MISSING_IMAGE, UNREADABLE_IMAGE, TOO_LARGE_IMAGE, UNREADABLE_REPORT, CONTRADICTION}
    | {DICOM_BITS, DICOM_SYNTAX}
)


class ImageProblem(Exception):
    """An image cannot be stored; `reason` is one of the constants above."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def failures(left_out: Mapping[str, int]) -> int:
    """Return the number of rows that were left out although the recipe asked for them."""
    return sum(count for reason, count in left_out.items() if reason in FAILURES)
