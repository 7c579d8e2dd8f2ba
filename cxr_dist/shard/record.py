"""What every reader gives: records, one per film, with its label values, report and a way to its pixels.

A reader knows one layout on disk. It selects nothing and maps no label: that is the same for all, in select.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cxr_dist.shard.person import Sex


class Pixels(Protocol):
    """A film that can be sent to another process and read there."""

    def exists(self) -> bool:
        """Whether there is anything to read."""
        ...

    def read(self, short_side: int) -> NDArray[np.uint8]:
        """Grey [H, W], 0 black to 255 white, of at least `short_side` where the film has it; raises ImageProblem."""
        ...


@dataclass(frozen=True, kw_only=True)
class Record:
    """One film of one study, as the source has it."""

    source_id: str
    """Unique name of the row in its source; only keys.csv ever repeats it."""
    image_id: str
    """What two rows that name the same film share."""
    study: str
    """Study id; empty where the source has none for this row."""
    patient: str
    """Patient id; empty where the source has none for this row."""
    view: str = ""
    """Projection as the source writes it, e.g. PA, Lateral; empty where unknown."""
    sex: Sex = ""
    """F or M; empty where unknown."""
    age: float | None = None
    """Years at the study; None where unknown."""
    values: tuple[str, ...]
    """Label values: one; or those of a list; or one per `Source.label_columns`."""
    text: Mapping[str, str]
    """Section -> text; every section is there, some may be empty."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """What the recipe's `where` may look at."""
    split: str = ""
    """train, val or test where the source has an official split; else empty."""
    pixels: Pixels | None
    """None where the source has no such image."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """All that a reader found."""

    records: list[Record]
    text_sections: tuple[str, ...]
    label_columns: tuple[str, ...] = ()
    """The classes, where each has a column of its own with 1, 0, -1 (uncertain) or nothing."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Rows that did not become a record, by reason."""
    made_data: bool = False
    """True where the films and reports were drawn and written by a program."""
    labels_from: str = ""
    """A reader of one's own: where the labels come from, e.g. `two radiologists, who did not see the reports`."""
    labels_in_reports: str = ""
    """A reader of one's own: how the labels were made, where that was from the very reports; else empty."""
