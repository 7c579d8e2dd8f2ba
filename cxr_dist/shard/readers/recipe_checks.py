"""Checks of a recipe that several readers share; each raises UserError for a field that the reader does not support."""

from cxr_dist.errors import require
from cxr_dist.shard.recipe import Recipe


def check_no_columns(recipe: Recipe) -> None:
    """The recipe names no column, because the layout is fixed; either all images are inverted or none."""
    require(recipe.columns is None, f"recipe: reader {recipe.reader} has no columns; only reader table has them")
    require(
        isinstance(recipe.image.monochrome1, bool),
        f"recipe: reader {recipe.reader} takes image.monochrome1 true or false; only reader table takes a column",
    )


def check_no_official_split(recipe: Recipe) -> None:
    """The recipe does not ask for an official split."""
    require(
        not recipe.split.official,
        f"recipe: reader {recipe.reader} has no official split; only reader mimic_cxr_jpg has one",
    )


def check_one_label(recipe: Recipe) -> None:
    """The task is multiclass, because each image has one label."""
    require(
        recipe.labels.task == "multiclass",
        f"recipe: reader {recipe.reader} has one label per image: use task: multiclass",
    )


def check_views(recipe: Recipe, lacking: str) -> None:
    """The views are known if the recipe selects by them; `lacking` names what is missing for that, or is empty."""
    require(
        recipe.views == "all" or not lacking,
        f"recipe: views: {recipe.views} with reader {recipe.reader} needs {lacking}",
    )
