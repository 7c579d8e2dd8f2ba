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

FAILURES = frozenset(
    {NO_PATIENT, NO_SPLIT, MISSING_IMAGE, UNREADABLE_IMAGE, TOO_LARGE_IMAGE, UNREADABLE_REPORT, CONTRADICTION}
)


class ImageProblem(Exception):
    """An image cannot be stored; `reason` is one of the constants above."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def failures(left_out: Mapping[str, int]) -> int:
    """Return the number of rows that were left out although the recipe asked for them."""
    return sum(count for reason, count in left_out.items() if reason in FAILURES)
