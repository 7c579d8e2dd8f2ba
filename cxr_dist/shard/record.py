"""What every reader returns: a `Source` of records, one per image, with label values, report and access to pixels.

A reader knows one layout on disk. Selecting rows and mapping labels is common to all readers (select.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cxr_dist.format.stored_boxes import Corners
from cxr_dist.shard.person import Sex


class Pixels(Protocol):
    """An image that can be sent to another process and read there."""

    def exists(self) -> bool:
        """Whether the image exists."""
        ...

    def read(self, short_side: int) -> NDArray[np.uint8]:
        """Grey [H, W], 0 black to 255 white; raises ImageProblem.

        The shorter side may be reduced, but not below `short_side` pixels.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class LabelledBox:
    """A box that a person drew around a finding."""

    label: str
    """The finding, as the table of boxes names it."""
    box: Corners


@dataclass(frozen=True, kw_only=True)
class Record:
    """One image of one study, as described by the source."""

    source_id: str
    """Unique name of the row in the source; keys.csv is the only output that contains it."""
    image_id: str
    """Identifies the image; rows that refer to the same image share it. Names of one file need not be equal."""
    study: str
    """Study id; empty if unknown."""
    patient: str
    """Patient id; empty if unknown."""
    view: str = ""
    """Projection as written in the source, e.g. PA, Lateral; empty if unknown."""
    sex: Sex = ""
    """F or M; empty if unknown."""
    age: float | None = None
    """Age in years at the time of the study; None if unknown."""
    values: tuple[str, ...]
    """Label values: a single one, those of a list, or one for each of `Source.label_columns`."""
    text: Mapping[str, str]
    """Report section -> text; contains every section, possibly empty."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """The fields that the recipe's `where` can select by."""
    split: str = ""
    """train, val or test if the source has an official split; else empty."""
    pixels: Pixels | None
    """None if the source has no such image."""
    boxes: tuple[LabelledBox, ...] = ()
    """The boxes on the image, from the recipe's `boxes`; readers leave this empty."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Everything that a reader returns."""

    records: list[Record]
    text_sections: tuple[str, ...]
    label_columns: tuple[str, ...] = ()
    """The classes if each has its own column with 1, 0, -1 (uncertain) or an empty cell; else empty."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Reason -> number of rows that did not become a record."""
    made_data: bool = False
    """Whether the images and reports are synthetic."""
    labels_from: str = ""
    """Your own reader: where the labels come from, e.g. `two radiologists, who did not see the reports`."""
    boxes_left_out: Mapping[str, int] = field(default_factory=dict)
    """Reason -> number of rows of the recipe's table of boxes that gave no box; readers leave this empty."""
    labels_in_reports: str = ""
    """Your own reader: how the labels were derived from these reports; empty if they were not."""
