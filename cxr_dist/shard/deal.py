"""Assign the samples of a recipe and a source to shards. No pixel is read.

The plan depends on nothing else, so that any process can write any shard by itself. An image that turns out to be
unreadable is missing from its own shard and moves no other sample; a shard without any readable image leaves a gap
in the numbers.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

from cxr_dist.format.manifest import SHARD_FORMAT_VERSION
from cxr_dist.shard.describe import plain_recipe, rows_sha256
from cxr_dist.shard.readers import read_source
from cxr_dist.shard.recipe import Recipe
from cxr_dist.shard.record import Source
from cxr_dist.shard.select import Sample, Selection, select
from cxr_dist.shard.split import shuffled

_WRITERS = ("cxr_dist", "opencv-python-headless", "pillow", "simplejpeg")  # others may write other bytes
_FOLD_WRITERS = ("scikit-learn",)  # other versions may choose other folds


@dataclass(frozen=True, kw_only=True)
class PlannedShard:
    """One shard and the samples assigned to it."""

    stem: str
    """The file name without its ending, e.g. train-00000."""
    split: str
    samples: Sequence[Sample]


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """Everything that is known before the first image is read."""

    recipe: Recipe
    source: Source
    selection: Selection
    shards: tuple[PlannedShard, ...]

    @cached_property
    def source_sha256(self) -> str:
        """The sha256 of the source's rows, without pixels."""
        return rows_sha256(self.source)

    @cached_property
    def identity(self) -> str:
        """A hash of recipe, rows and versions: with the same identity, the same images give the same bytes."""
        writers = (*_WRITERS, *_FOLD_WRITERS) if self.recipe.split.folds else _WRITERS
        versions = [f"{name} {version(name)}" for name in writers]
        parts = [plain_recipe(self.recipe), self.source_sha256, SHARD_FORMAT_VERSION, versions]
        return hashlib.sha256(json.dumps(parts).encode("utf-8")).hexdigest()


def plan_shards(recipe: Recipe, source: Path | None) -> ShardPlan:
    """Read the source's rows, select samples and assign them; raises UserError if recipe and source do not fit."""
    rows = read_source(recipe, source)
    selection = select(recipe, rows)
    shards = tuple(_deal(recipe, selection.samples))
    return ShardPlan(recipe=recipe, source=rows, selection=selection, shards=shards)


def _deal(recipe: Recipe, samples: Sequence[Sample]) -> list[PlannedShard]:
    """Assign shuffled samples to shards of nearly equal sizes."""
    by_key = {sample.key: sample for sample in samples}
    planned = []
    for split in recipe.split.names:
        keys = shuffled((sample.key for sample in samples if sample.split == split), recipe.split.seed)
        num_shards = math.ceil(len(keys) / recipe.shard.samples)
        cuts = [len(keys) * shard // num_shards for shard in range(num_shards)] + [len(keys)]
        for number, (start, stop) in enumerate(pairwise(cuts)):
            members = [by_key[key] for key in keys[start:stop]]
            planned.append(PlannedShard(stem=f"{split}-{number:05d}", split=split, samples=members))
    return planned
