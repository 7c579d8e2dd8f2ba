"""What becomes one sample: each film by itself, or the films of a study together. Records in, groups of them out.

The films of a study stand in one fixed order, so that the first few show as much as they can: the first frontal film,
the first lateral one, the first of unknown view, then the second of each. It gives up on studies that contradict
themselves.
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
    """The films of one sample, which share label and report."""

    records: tuple[Record, ...]
    label: tuple[int, ...]

    @property
    def first(self) -> Record:
        """The film that speaks for the sample where all have the same to say."""
        return self.records[0]


def films_alone(kept: Sequence[_Labelled]) -> list[Unit]:
    """Every film a sample."""
    return [Unit(records=(record,), label=label) for record, label in kept]


def films_of_studies(kept: Sequence[_Labelled], max_views: int, left_out: Counter[str]) -> list[Unit]:
    """Every study of a patient a sample, of up to `max_views` films; counts the films that are left out."""
    studies: defaultdict[tuple[str, str], list[_Labelled]] = defaultdict(list)
    for record, label in kept:
        studies[record.patient, record.study].append((record, label))
    units = []
    for films in studies.values():
        if any(_said(film) != _said(films[0]) for film in films):
            left_out[CONTRADICTION] += len(films)
            continue
        ordered = films_in_order([record for record, _ in films])
        left_out[MORE_IMAGES] += len(ordered[max_views:])
        units.append(Unit(records=tuple(ordered[:max_views]), label=films[0][1]))
    return units


def films_in_order(films: Sequence[Record]) -> list[Record]:
    """The films of a study in their fixed order; within a projection by the source's own names."""
    seen: Counter[str] = Counter()
    ranks = {}
    for film in sorted(films, key=lambda film: film.source_id):
        kind = projection(film.view)
        ranks[film.source_id] = (seen[kind], _KINDS.index(kind))
        seen[kind] += 1
    return sorted(films, key=lambda film: ranks[film.source_id])


def _said(film: _Labelled) -> tuple[object, ...]:
    record, label = film
    return label, dict(record.text), record.split
