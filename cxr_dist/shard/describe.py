"""Build the manifest: counts per split and class, the recipe, and a hash of the rows of the source."""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cxr_dist.config.lookup import code_sha256, recorded_name
from cxr_dist.format.left_out import BOX_IMAGE_LEFT_OUT
from cxr_dist.format.manifest import SPLITS, UNKNOWN, Manifest, ShardEntry, SplitEntry
from cxr_dist.shard.recipe import Recipe
from cxr_dist.shard.record import Source
from cxr_dist.shard.select import Sample, Selection


@dataclass(frozen=True, kw_only=True)
class Written:
    """A written shard and its samples."""

    split: str
    entry: ShardEntry
    samples: list[Sample]


def manifest_of(recipe: Recipe, source: Source, selection: Selection, written: Sequence[Written]) -> Manifest:
    """The manifest of a folder in which all shards have been written."""
    samples = [sample for shard in written for sample in shard.samples]
    return Manifest(
        recipe=plain_recipe(recipe),
        reader=recorded_name(recipe.reader),
        task=recipe.labels.task,
        classes=selection.classes,
        text_sections=source.text_sections,
        attributes=_attributes(samples),
        split_by=recipe.split.by,
        image={"short_side": recipe.image.short_side, "quality": recipe.image.quality}
        | ({"views": recipe.views_per_sample} if recipe.samples == "study" else {}),
        made_data=source.made_data,
        source_rows=len(source.records) + sum(source.left_out.values()),
        left_out=dict(sorted(selection.left_out.items())),
        splits={name: _split_entry(recipe, selection.classes, name, written) for name in recipe.split.names},
        redacted=_redacted(recipe, samples),
        without_text=sum(not any(s.text.values()) for s in samples) if source.text_sections else 0,
        source_sha256=rows_sha256(source),
        labels_from=source.labels_from,
        labels_in_reports=source.labels_in_reports,
        boxes={} if recipe.boxes is None else _boxes(recipe, selection, written),
    )


def plain_recipe(recipe: Recipe) -> dict[str, Any]:
    """The resolved recipe as JSON values, with the sha256 of the file that defines the user's own reader."""
    plain = json.loads(json.dumps(dataclasses.asdict(recipe)))
    assert isinstance(plain, dict)
    # These settings were added later. Their defaults are omitted, so that the bytes of such shards do not change.
    if recipe.views == "all":
        del plain["views"]
    if recipe.samples == "image":
        del plain["samples"], plain["max_views"]
    if not recipe.prompts:
        del plain["prompts"]
    if recipe.boxes is None:
        del plain["boxes"]
    if recipe.image_ending == ".jpg":
        del plain["image_ending"]
    if recipe.reader != "dicom":
        del plain["dicom"]
    if recipe.join is None:
        del plain["join"]
    for name in ("folds",) if recipe.split.folds is None else SPLITS:  # the shares mean nothing beside folds
        del plain["split"][name]
    plain["reader"], sha256 = recorded_name(recipe.reader), code_sha256(recipe.reader)
    return plain if sha256 is None else plain | {"reader_sha256": sha256}


def rows_sha256(source: Source) -> str:
    """sha256 of all rows without their pixels, regardless of order; tells whether the source has changed."""
    rows = (
        json.dumps(
            [r.source_id, r.study, r.patient, r.view, r.sex, r.age, r.values, dict(r.text), dict(r.fields)]
            + [[each.label, each.box] for each in r.boxes]
        )
        for r in source.records
    )
    # Each row is hashed first, because the texts of all reports together can exceed a gigabyte.
    digests = sorted(hashlib.sha256(row.encode("utf-8")).digest() for row in rows)
    return hashlib.sha256(b"".join(digests)).hexdigest()


def _attributes(samples: Sequence[Sample]) -> tuple[str, ...]:
    known = {
        "view": any(sample.view for sample in samples),
        "sex": any(sample.sex for sample in samples),
        "age": any(sample.age is not None for sample in samples),
    }
    return tuple(name for name, is_known in known.items() if is_known)


def _boxes(recipe: Recipe, selection: Selection, written: Sequence[Written]) -> dict[str, Any]:
    """The manifest's `boxes`: those in the samples by split and class, and the others by reason."""
    stored: dict[str, Counter[str]] = {name: Counter() for name in recipe.split.names}
    for shard in written:
        for sample in shard.samples:
            stored[shard.split].update(selection.classes[box.class_index] for box in sample.boxes)
    lost = selection.boxes.num_selected - sum(counts.total() for counts in stored.values())
    left_out = +(selection.boxes.left_out + Counter({BOX_IMAGE_LEFT_OUT: lost}))
    by_class = {name: {each: counts[each] for each in selection.classes} for name, counts in stored.items()}
    return {"stored": by_class, "left_out": dict(sorted(left_out.items()))}


def _redacted(recipe: Recipe, samples: Sequence[Sample]) -> dict[str, int]:
    """Replacements by term. Terms without any are included, because they can be misspelt."""
    counts = Counter(dict.fromkeys(recipe.redact, 0))
    for sample in samples:
        counts.update(sample.redacted)
    return dict(counts)


def _split_entry(recipe: Recipe, classes: Sequence[str], name: str, written: Sequence[Written]) -> SplitEntry:
    shards = [shard for shard in written if shard.split == name]
    samples = [sample for shard in shards for sample in shard.samples]
    multiclass = recipe.labels.task == "multiclass"
    counts = {}
    for index, class_name in enumerate(classes):
        values = [int(s.label[0] == index) if multiclass else s.label[index] for s in samples]
        counts[class_name] = {
            "positive": values.count(1),
            "negative": values.count(0),
            "unknown": values.count(UNKNOWN),
        }
    return SplitEntry(
        samples=len(samples),
        patients=len({sample.patient for sample in samples}),
        label_counts=counts,
        shards=tuple(shard.entry for shard in shards),
    )
