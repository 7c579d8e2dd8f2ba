"""Readers: one module per layout on disk, each a function (recipe, source folder) -> Source."""

from pathlib import Path

from cxr_dist.shard.readers import demo, mimic_cxr_jpg, openi, table
from cxr_dist.shard.recipe import Recipe
from cxr_dist.shard.record import Source

_READERS = {
    "demo": demo.read,
    "mimic_cxr_jpg": mimic_cxr_jpg.read,
    "openi": openi.read,
    "table": table.read,
}


def read_source(recipe: Recipe, folder: Path | None) -> Source:
    """Read what the recipe's reader finds in `folder`; raises UserError where that is not its layout."""
    return _READERS[recipe.reader](recipe, folder)
