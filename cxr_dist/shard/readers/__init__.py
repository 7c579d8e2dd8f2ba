"""Readers: one module per layout on disk. A recipe names one of READERS, or one of the user's own (own_reader.py)."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cxr_dist.config.lookup import look_up
from cxr_dist.shard.readers import demo, mimic_cxr_jpg, openi, table
from cxr_dist.shard.readers.own_reader import OwnReader, read_own
from cxr_dist.shard.recipe import Recipe
from cxr_dist.shard.record import Source


@dataclass(frozen=True, kw_only=True)
class Reader:
    """One layout of a source."""

    read: OwnReader
    """The recipe, and the folder of --source or None, to all records; raises UserError for another layout."""
    check: Callable[[Recipe], None]
    """Raises UserError for a recipe that lacks what this reader needs, or sets what it does not know."""
    labels_from: str
    """Where the labels come from."""
    labels_in_reports: str = ""
    """How the labels were made, where that was from the very reports; else empty."""


READERS = {
    "demo": Reader(read=demo.read, check=demo.check, labels_from="the program that drew the films"),
    "mimic_cxr_jpg": Reader(
        read=mimic_cxr_jpg.read,
        check=mimic_cxr_jpg.check,
        labels_from="a program that read each report",
        labels_in_reports="by a program (CheXpert or NegBio), from the impression, else findings, else last paragraph",
    ),
    "openi": Reader(
        read=openi.read,
        check=openi.check,
        labels_from="MeSH terms that a curator gave each report",
        labels_in_reports="by curators, who gave each report its MeSH terms",
    ),
    "table": Reader(
        read=table.read,
        check=table.check,
        labels_from="a column of the source table; how that was made, the table does not say",
    ),
}


def check_recipe(recipe: Recipe) -> None:
    """Raise UserError for a reader that is not there, and for a recipe that does not fit it."""
    reader = look_up("reader", recipe.reader, READERS)
    if isinstance(reader, Reader):
        reader.check(recipe)


def read_source(recipe: Recipe, folder: Path | None) -> Source:
    """Check the recipe, and read what its reader finds in `folder`; raises UserError where that is not its layout."""
    check_recipe(recipe)
    if recipe.reader in READERS:
        return READERS[recipe.reader].read(recipe, folder)
    return read_own(recipe, folder)
