"""Which sample belongs to which shard: a recipe and a source in, the plan of every shard out. No pixel is read.

The plan depends on nothing else, so that any process can write any shard by itself. A film that turns out to be
unreadable is missing from its own shard and moves no other sample; a shard of which no film is readable leaves a
gap in the numbers.
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

from cxr_dist.format.manifest import FORMAT_VERSION, SPLITS
from cxr_dist.shard.describe import plain_recipe, rows_sha256
from cxr_dist.shard.readers import read_source
from cxr_dist.shard.recipe import Recipe
from cxr_dist.shard.record import Source
from cxr_dist.shard.select import Sample, Selection, select
from cxr_dist.shard.split import shuffled

_WRITERS = ("cxr_dist", "opencv-python-headless", "pillow")  # whose releases may change a shard's bytes


@dataclass(frozen=True, kw_only=True)
class PlannedShard:
    """One tar and the samples that belong into it."""

    stem: str
    """File name without ending, e.g. train-00000."""
    split: str
    samples: Sequence[Sample]


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """All that is known before the first film is read."""

    recipe: Recipe
    found: Source
    selection: Selection
    shards: tuple[PlannedShard, ...]

    @cached_property
    def source_sha256(self) -> str:
        """Of the source's rows, pixels apart."""
        return rows_sha256(self.found)

    @cached_property
    def identity(self) -> str:
        """The same for two plans whose shards have the same bytes, if the films do: recipe, rows and versions."""
        versions = [f"{name} {version(name)}" for name in _WRITERS]
        parts = [plain_recipe(self.recipe), self.source_sha256, FORMAT_VERSION, versions]
        return hashlib.sha256(json.dumps(parts).encode("utf-8")).hexdigest()


def plan_shards(recipe: Recipe, source: Path | None) -> ShardPlan:
    """Read the source's rows, select, and deal; raises UserError where the recipe does not fit the source."""
    found = read_source(recipe, source)
    selection = select(recipe, found)
    return ShardPlan(
        recipe=recipe, found=found, selection=selection, shards=tuple(_deal(recipe, selection.samples))
    )


def _deal(recipe: Recipe, samples: Sequence[Sample]) -> list[PlannedShard]:
    """Shards of nearly equal sizes, in an order that mixes the source."""
    by_key = {sample.key: sample for sample in samples}
    planned = []
    for split in SPLITS:
        keys = shuffled((sample.key for sample in samples if sample.split == split), recipe.split.seed)
        num_shards = math.ceil(len(keys) / recipe.shard.samples)
        cuts = [len(keys) * shard // num_shards for shard in range(num_shards)] + [len(keys)]
        for number, (start, stop) in enumerate(pairwise(cuts)):
            members = [by_key[key] for key in keys[start:stop]]
            planned.append(PlannedShard(stem=f"{split}-{number:05d}", split=split, samples=members))
    return planned
