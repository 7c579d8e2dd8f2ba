"""Turn records into samples: apply the recipe, assign label, opaque ids and split. No pixel is read here.

Every row that is left out is counted by reason. The ids in a sample are hashes. Source names appear only as an image's
`source_id`, which only keys.csv repeats.
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
from cxr_dist.format.prompts import check_prompts
from cxr_dist.format.redact import Redaction
from cxr_dist.format.stored_boxes import Corners, StoredBox
from cxr_dist.shard.box_classes import BoxClasses, class_boxes
from cxr_dist.shard.labels import assign_labels, sampling_groups
from cxr_dist.shard.person import Sex
from cxr_dist.shard.projection import projection
from cxr_dist.shard.recipe import Recipe
from cxr_dist.shard.record import Pixels, Record, Source
from cxr_dist.shard.split import assign_splits, checked_official
from cxr_dist.shard.studies import Unit, units_of_images, units_of_studies


@dataclass(frozen=True, kw_only=True)
class SampleImage:
    """One image of a sample."""

    key: str
    """20 hexadecimal digits, unique in the source; equal to the sample's key if each image is a sample."""
    view: str
    source_id: str
    pixels: Pixels
    boxes: tuple[tuple[int, Corners], ...] = ()
    """The index of the class and the box of each finding."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """An image, or the images of a study, before they are written to a shard."""

    key: str
    """20 hexadecimal digits, unique in the folder."""
    study: str
    """16 hexadecimal digits."""
    patient: str
    """16 hexadecimal digits; the same for all patients that share an image."""
    images: tuple[SampleImage, ...]
    """In the order that studies.py defines."""
    sex: Sex
    age: float | None
    label: tuple[int, ...]
    group: int
    split: str
    text: Mapping[str, str]
    redacted: Mapping[str, int]
    """How often each of the recipe's `redact` terms was replaced in `text`."""

    @property
    def view(self) -> str:
        """The views as the source names them, e.g. `PA + LATERAL`; empty if none is known."""
        return " + ".join(image.view for image in self.images if image.view)

    @property
    def boxes(self) -> list[StoredBox]:
        """The boxes on all images."""
        return [
            StoredBox(class_index, view, box)
            for view, image in enumerate(self.images)
            for class_index, box in image.boxes
        ]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The samples to write, and the number of rows left out by reason."""

    classes: tuple[str, ...]
    samples: list[Sample]
    left_out: Counter[str]
    boxes: BoxClasses


def select(recipe: Recipe, source: Source) -> Selection:
    """Apply the recipe's where, views, labels and split.

    Raises UserError if no row is left or a label value is unknown.
    """
    left_out = Counter(source.left_out)
    chosen = [record for record in source.records if _selected(recipe, record)]
    left_out[NOT_SELECTED] = len(source.records) - len(chosen)
    if not chosen:
        raise UserError(
            f"none of {len(source.records)} rows is left: check the recipe's where (columns {', '.join(recipe.where)})"
            if source.records
            else "the source has no rows: check --source and the recipe's reader"
        )
    chosen = _of_views(recipe, chosen, left_out)
    occurring = [value for record in source.records for value in record.values]
    labelled = assign_labels(recipe.labels, source.label_columns, [record.values for record in chosen], occurring)
    kept: list[tuple[Record, tuple[int, ...]]] = []
    for record, label in zip(chosen, labelled.labels, strict=True):
        if isinstance(label, str):  # the reason why there is none
            left_out[label] += 1
        elif reason := _failure(recipe, record):
            left_out[reason] += 1
        else:
            kept.append((record, label))
    by_study = recipe.samples == "study"
    units = units_of_studies(kept, recipe.max_views, left_out) if by_study else units_of_images(kept)
    check_prompts(recipe.prompts, labelled.classes, recipe.labels.task)
    boxes = class_boxes(recipe.boxes, labelled.classes, source)
    samples = _samples(recipe, units, len(labelled.classes), boxes)
    return Selection(classes=labelled.classes, samples=samples, left_out=+left_out, boxes=boxes)


def opaque(kind: str, name: str, digits: int = 16) -> str:
    """Hash an id. The result is pseudonymous, not anonymous: ids can be guessed and hashed."""
    # A file name that is not UTF-8 has surrogates.
    return hashlib.sha256(f"{kind}\0{name}".encode("utf-8", "surrogateescape")).hexdigest()[:digits]


def _selected(recipe: Recipe, record: Record) -> bool:
    unknown = [column for column in recipe.where if column not in record.fields]
    if unknown:
        raise UserError(f"recipe: where names {unknown[0]!r}; reader {recipe.reader} has: {', '.join(record.fields)}")
    return all(record.fields[column] in values for column, values in recipe.where.items())


def _of_views(recipe: Recipe, records: list[Record], left_out: Counter[str]) -> list[Record]:
    """Return the records of the recipe's views; count the others."""
    if recipe.views == "all":
        return records
    views = [projection(record.view) for record in records]
    left_out[UNKNOWN_VIEW] = views.count("")
    left_out[OTHER_VIEW] = len(views) - views.count("") - views.count(recipe.views)
    if recipe.views not in views:
        raise UserError(
            f"none of {len(views)} images is {recipe.views}; {left_out[UNKNOWN_VIEW]} have a view that is not known to "
            "be frontal or lateral: choose others in the recipe's views, or check the column of views"
        )
    return [record for record, view in zip(records, views, strict=True) if view == recipe.views]


def _failure(recipe: Recipe, record: Record) -> str | None:
    if record.pixels is None:
        return MISSING_IMAGE
    if recipe.split.official and not record.split:
        return NO_SPLIT
    return None if record.patient and record.study else NO_PATIENT


def _samples(recipe: Recipe, units: Sequence[Unit], num_classes: int, boxes: BoxClasses) -> list[Sample]:
    """Return the samples sorted by key, so that the order of the source's rows does not matter from here on."""
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
            images=_images(unit, boxes),
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
    assert len({sample.key for sample in samples}) == len(samples), "two rows have the same source id"
    return sorted(samples, key=lambda sample: sample.key)


def _key(recipe: Recipe, unit: Unit) -> str:
    if recipe.samples == "study":
        return opaque("study sample", f"{unit.first.patient}\0{unit.first.study}", 20)
    return opaque("sample", unit.first.source_id, 20)


def _images(unit: Unit, boxes: BoxClasses) -> tuple[SampleImage, ...]:
    return tuple(
        SampleImage(
            key=opaque("sample", record.source_id, 20),
            view=record.view,
            source_id=record.source_id,
            pixels=record.pixels,
            boxes=boxes.of(record),
        )
        for record in unit.records
        if record.pixels is not None  # which `_failure` has already excluded
    )


def _merged(groups: Sequence[str], units: Sequence[Unit]) -> list[str]:
    """Rename groups that share an image to the first of their names: one image under two ids is one patient."""
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
