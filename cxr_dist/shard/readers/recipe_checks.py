"""What several readers ask of a recipe: fields that they do not know must not be set. Each raises UserError."""

from cxr_dist.errors import require
from cxr_dist.shard.recipe import Recipe


def check_no_columns(recipe: Recipe) -> None:
    """No column is named: the layout is fixed, and all films are inverted or none."""
    require(
        recipe.columns is None, f"recipe: reader {recipe.reader} has no columns; they belong to reader table"
    )
    require(
        isinstance(recipe.image.monochrome1, bool),
        f"recipe: reader {recipe.reader} takes image.monochrome1 true or false; a column belongs to reader table",
    )


def check_no_official_split(recipe: Recipe) -> None:
    """The split is made here."""
    require(
        not recipe.split.official,
        f"recipe: reader {recipe.reader} knows no official split; that belongs to reader mimic_cxr_jpg",
    )


def check_one_label(recipe: Recipe) -> None:
    """Each image has one label."""
    require(
        recipe.labels.task == "multiclass",
        f"recipe: reader {recipe.reader} has one label per image: use task: multiclass",
    )


def check_views(recipe: Recipe, lacking: str) -> None:
    """The views are known where the recipe chooses some; `lacking` says what they would be known from."""
    require(
        recipe.views == "all" or not lacking,
        f"recipe: views: {recipe.views} with reader {recipe.reader} needs {lacking}",
    )
