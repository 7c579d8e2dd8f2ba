"""Records into samples: what the recipe keeps, with class, opaque ids and split. No pixel is read here.

Left out by choice or by failure, every row is counted. The ids in a sample are hashes; source names stay behind
a film's `source_id`, which only keys.csv repeats.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cxr_dist.errors import UserError
from cxr_dist.format.left_out import (
    MISSING_IMAGE,
    NO_PATIENT,
    NO_SPLIT,
    NOT_SELECTED,
    OTHER_VIEW,
    UNKNOWN_VIEW,
)
from cxr_dist.shard.labels import assign_labels, sampling_groups
from cxr_dist.shard.person import Sex
from cxr_dist.shard.projection import projection
from cxr_dist.shard.recipe import Recipe
from cxr_dist.shard.record import Pixels, Record, Source
from cxr_dist.shard.redact import Redaction
from cxr_dist.shard.split import assign_splits, checked_official
from cxr_dist.shard.studies import Unit, films_alone, films_of_studies


@dataclass(frozen=True, kw_only=True)
class Film:
    """One film of a sample."""

    key: str
    """20 hexadecimal digits, unique in the source; the sample's, where that is this film alone."""
    view: str
    source_id: str
    pixels: Pixels


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A film, or the films of a study, on the way into a shard."""

    key: str
    """20 hexadecimal digits, unique in the folder."""
    study: str
    """16 hexadecimal digits."""
    patient: str
    """16 hexadecimal digits; the same for all patients that share a film."""
    films: tuple[Film, ...]
    """In the order of studies.py."""
    sex: Sex
    age: float | None
    label: tuple[int, ...]
    group: int
    split: str
    text: Mapping[str, str]
    redacted: Mapping[str, int]
    """Term of the recipe's redact -> how often it was replaced in `text`."""

    @property
    def view(self) -> str:
        """The views as the source writes them, e.g. `PA + LATERAL`; empty where none is known."""
        return " + ".join(film.view for film in self.films if film.view)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What will be written."""

    classes: tuple[str, ...]
    samples: list[Sample]
    left_out: Counter[str]


def select(recipe: Recipe, source: Source) -> Selection:
    """Apply where, views, labels and split; raises UserError where nothing is left or a label value is unknown."""
    left_out = Counter(source.left_out)
    chosen = [record for record in source.records if _selected(recipe, record)]
    left_out[NOT_SELECTED] = len(source.records) - len(chosen)
    if not chosen:
        raise UserError(
            f"no row is left of {len(source.records)}: check the recipe's where (columns {', '.join(recipe.where)})"
            if source.records
            else "the source has no rows: check --source and the recipe's reader"
        )
    chosen = _of_views(recipe, chosen, left_out)
    occurring = [value for record in source.records for value in record.values]
    labelled = assign_labels(
        recipe.labels, source.label_columns, [record.values for record in chosen], occurring
    )
    kept: list[tuple[Record, tuple[int, ...]]] = []
    for record, label in zip(chosen, labelled.labels, strict=True):
        reason = label if isinstance(label, str) else _failure(recipe, record)
        if reason is None and not isinstance(label, str):
            kept.append((record, label))
        else:
            left_out[str(reason)] += 1
    by_study = recipe.samples == "study"
    units = films_of_studies(kept, recipe.max_views, left_out) if by_study else films_alone(kept)
    samples = _samples(recipe, units, len(labelled.classes))
    return Selection(classes=labelled.classes, samples=samples, left_out=+left_out)


def opaque(kind: str, name: str, digits: int = 16) -> str:
    """A stand-in for an id: the same id gives the same one. Pseudonymous, as ids can be guessed and hashed."""
    return hashlib.sha256(f"{kind}\0{name}".encode()).hexdigest()[:digits]


def _selected(recipe: Recipe, record: Record) -> bool:
    unknown = [column for column in recipe.where if column not in record.fields]
    if unknown:
        raise UserError(
            f"recipe: where names {unknown[0]!r}; reader {recipe.reader} has: {', '.join(record.fields)}"
        )
    return all(record.fields[column] in values for column, values in recipe.where.items())


def _of_views(recipe: Recipe, records: list[Record], left_out: Counter[str]) -> list[Record]:
    """The films of the recipe's views; counts the others."""
    if recipe.views == "all":
        return records
    found = [projection(record.view) for record in records]
    left_out[UNKNOWN_VIEW], left_out[OTHER_VIEW] = (
        found.count(""),
        len(found) - found.count("") - found.count(recipe.views),
    )
    if recipe.views not in found:
        raise UserError(
            f"no film of {len(found)} is {recipe.views}; {left_out[UNKNOWN_VIEW]} have a view that is not known to be "
            "frontal or lateral: choose others in the recipe's views, or check the column of views"
        )
    return [record for record, kind in zip(records, found, strict=True) if kind == recipe.views]


def _failure(recipe: Recipe, record: Record) -> str | None:
    if record.pixels is None:
        return MISSING_IMAGE
    if recipe.split.official and not record.split:
        return NO_SPLIT
    return None if record.patient and record.study else NO_PATIENT


def _samples(recipe: Recipe, units: Sequence[Unit], num_classes: int) -> list[Sample]:
    """Sorted by key, so that the order of the source's rows does not matter from here on."""
    if not units:
        return []
    strata = sampling_groups([unit.label for unit in units], num_classes)
    patients = _merged([unit.first.patient for unit in units], units)
    studies = _merged([unit.first.study for unit in units], units)
    groups = {"patient": patients, "study": studies, "image": [unit.first.image_id for unit in units]}
    if recipe.split.official:
        splits = checked_official(groups[recipe.split.by], [u.first.split for u in units], recipe.split)
    else:
        splits = assign_splits(groups[recipe.split.by], strata, recipe.split)
    texts = map(Redaction(terms=recipe.redact).apply, (unit.first.text for unit in units))
    samples = [
        Sample(
            key=_key(recipe, unit),
            study=opaque("study", study),
            patient=opaque("patient", patient),
            films=_films(unit),
            sex=unit.first.sex,
            age=unit.first.age,
            label=unit.label,
            group=stratum,
            split=split,
            text=text,
            redacted=redacted,
        )
        for unit, stratum, patient, study, split, (text, redacted) in zip(
            units, strata, patients, studies, splits, texts, strict=True
        )
    ]
    assert len({sample.key for sample in samples}) == len(samples), "two rows with one source id"
    return sorted(samples, key=lambda sample: sample.key)


def _key(recipe: Recipe, unit: Unit) -> str:
    if recipe.samples == "study":
        return opaque("study sample", f"{unit.first.patient}\0{unit.first.study}", 20)
    return opaque("sample", unit.first.source_id, 20)


def _films(unit: Unit) -> tuple[Film, ...]:
    return tuple(
        Film(
            key=opaque("sample", record.source_id, 20),
            view=record.view,
            source_id=record.source_id,
            pixels=record.pixels,
        )
        for record in unit.records
        if record.pixels is not None  # as `_failure` has seen to
    )


def _merged(groups: Sequence[str], units: Sequence[Unit]) -> list[str]:
    """One name for all groups that share an image, the first in order: a film under two ids is one patient."""
    parent = {group: group for group in groups}

    def root(group: str) -> str:
        while parent[group] != group:
            parent[group] = parent[parent[group]]
            group = parent[group]
        return group

    first: dict[str, str] = {}
    for group, unit in zip(groups, units, strict=True):
        for record in unit.records:
            low, high = sorted((root(group), root(first.setdefault(record.image_id, group))))
            parent[high] = low
    return [root(group) for group in groups]
