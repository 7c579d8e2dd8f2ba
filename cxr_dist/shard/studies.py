"""Group records into samples: each image by itself, or the images of a study together.

The images of a study have a fixed order: the first frontal, the first lateral and the first of another or unknown view,
then the second of each, so that the first few show different projections. Studies whose images disagree on label,
report or split are excluded.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from cxr_dist.format.left_out import CONTRADICTION, MORE_IMAGES
from cxr_dist.shard.projection import projection
from cxr_dist.shard.record import Record

_KINDS = ("frontal", "lateral", "")
_Labelled = tuple[Record, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class Unit:
    """The images of one sample, which share label and report."""

    records: tuple[Record, ...]
    label: tuple[int, ...]

    @property
    def first(self) -> Record:
        """The record that provides what all records of the sample share."""
        return self.records[0]


def units_of_images(kept: Sequence[_Labelled]) -> list[Unit]:
    """Make every image a sample."""
    return [Unit(records=(record,), label=label) for record, label in kept]


def units_of_studies(kept: Sequence[_Labelled], max_views: int, left_out: Counter[str]) -> list[Unit]:
    """Make every study of a patient a sample of up to `max_views` images; counts the excluded ones in `left_out`."""
    studies: defaultdict[tuple[str, str], list[_Labelled]] = defaultdict(list)
    for record, label in kept:
        studies[record.patient, record.study].append((record, label))
    units = []
    for images in studies.values():
        if any(_shared(image) != _shared(images[0]) for image in images):
            left_out[CONTRADICTION] += len(images)
            continue
        ordered = in_view_order([record for record, _ in images])
        left_out[MORE_IMAGES] += len(ordered[max_views:])
        units.append(Unit(records=tuple(ordered[:max_views]), label=images[0][1]))
    return units


def in_view_order(records: Sequence[Record]) -> list[Record]:
    """The images of a study in their fixed order; within a projection they are ordered by `source_id`."""
    seen: Counter[str] = Counter()
    ranks = {}
    for record in sorted(records, key=lambda record: record.source_id):
        kind = projection(record.view)
        ranks[record.source_id] = (seen[kind], _KINDS.index(kind))
        seen[kind] += 1
    return sorted(records, key=lambda record: ranks[record.source_id])


def _shared(image: _Labelled) -> tuple[object, ...]:
    """What all images of a study must agree on."""
    record, label = image
    return label, dict(record.text), record.split
