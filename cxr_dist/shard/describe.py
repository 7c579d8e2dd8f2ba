"""What was written, as the manifest says it: counts per split and class, the recipe, a hash of the source."""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cxr_dist.config.lookup import code_sha256, recorded_name
from cxr_dist.format.manifest import SPLITS, UNKNOWN, Manifest, ShardEntry, SplitEntry
from cxr_dist.shard.recipe import Recipe
from cxr_dist.shard.record import Source
from cxr_dist.shard.select import Sample, Selection


@dataclass(frozen=True, kw_only=True)
class Written:
    """One shard, and the samples that reached it."""

    split: str
    entry: ShardEntry
    samples: list[Sample]


def manifest_of(recipe: Recipe, source: Source, selection: Selection, written: Sequence[Written]) -> Manifest:
    """The manifest of a folder whose shards are all written."""
    samples = [sample for shard in written for sample in shard.samples]
    return Manifest(
        recipe=plain_recipe(recipe),
        reader=recorded_name(recipe.reader),
        task=recipe.labels.task,
        classes=selection.classes,
        text_sections=source.text_sections,
        attributes=_attributes(samples),
        split_by=recipe.split.by,
        image=_image(recipe),
        made_data=source.made_data,
        source_rows=len(source.records) + sum(source.left_out.values()),
        left_out=dict(sorted(selection.left_out.items())),
        splits={name: _split_entry(recipe, selection.classes, name, written) for name in SPLITS},
        redacted=_redacted(recipe, samples),
        without_text=sum(not any(s.text.values()) for s in samples) if source.text_sections else 0,
        source_sha256=rows_sha256(source),
        labels_from=source.labels_from,
        labels_in_reports=source.labels_in_reports,
    )


def _image(recipe: Recipe) -> dict[str, int]:
    image = {"short_side": recipe.image.short_side, "quality": recipe.image.quality}
    return image | {"views": recipe.views_per_sample} if recipe.samples == "study" else image


def plain_recipe(recipe: Recipe) -> dict[str, Any]:
    """The resolved recipe as JSON keeps it, with the sha256 of the file of a reader of the user's own."""
    plain = json.loads(json.dumps(dataclasses.asdict(recipe)))
    assert isinstance(plain, dict)
    # Shards of all films, each a sample, came before there was a choice: they keep their bytes.
    if recipe.views == "all":
        del plain["views"]
    if recipe.samples == "image":
        del plain["samples"], plain["max_views"]
    plain["reader"], sha256 = recorded_name(recipe.reader), code_sha256(recipe.reader)
    return plain if sha256 is None else plain | {"reader_sha256": sha256}


def rows_sha256(source: Source) -> str:
    """sha256 over all rows in any order, pixels apart: whether the source is still the same."""
    rows = (
        json.dumps(
            [r.source_id, r.study, r.patient, r.view, r.sex, r.age, r.values, dict(r.text), dict(r.fields)]
        )
        for r in source.records
    )
    # Of each row its hash: the texts of all reports together would be more than a gigabyte.
    digests = sorted(hashlib.sha256(row.encode("utf-8")).digest() for row in rows)
    return hashlib.sha256(b"".join(digests)).hexdigest()


def _attributes(samples: Sequence[Sample]) -> tuple[str, ...]:
    known = {
        "view": any(sample.view for sample in samples),
        "sex": any(sample.sex for sample in samples),
        "age": any(sample.age is not None for sample in samples),
    }
    return tuple(name for name, there in known.items() if there)


def _redacted(recipe: Recipe, samples: Sequence[Sample]) -> dict[str, int]:
    """Also of terms that were never found: a slip of the pen can be seen."""
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
