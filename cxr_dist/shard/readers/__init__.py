"""Readers: one module per layout on disk. A recipe names one of READERS or the user's own reader (own_reader.py)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from cxr_dist.config.lookup import look_up
from cxr_dist.shard.readers import demo, dicom_folder, mimic_cxr_jpg, openi, table
from cxr_dist.shard.readers.box_table import with_boxes
from cxr_dist.shard.readers.own_reader import OwnReader, read_own
from cxr_dist.shard.recipe import Recipe
from cxr_dist.shard.record import Source
from cxr_dist.shard.same_files import with_one_id_per_file


@dataclass(frozen=True, kw_only=True)
class Reader:
    """How to read one layout."""

    read: OwnReader
    check: Callable[[Recipe], None]
    """Raises UserError for a recipe that lacks a field which the reader needs, or sets one that it does not support."""
    labels_from: str
    """Where the labels come from."""
    labels_in_reports: str = ""
    """How the labels were derived from the reports; empty if they were not."""


READERS = {
    "demo": Reader(read=demo.read, check=demo.check, labels_from="the program that drew the images"),
    "dicom": Reader(
        read=dicom_folder.read,
        check=dicom_folder.check,
        labels_from="a column of the source table, which does not say how it was made",
    ),
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
        labels_from="a column of the source table, which does not say how it was made",
    ),
}


def check_recipe(recipe: Recipe) -> None:
    """Raise UserError for an unknown reader, and for a recipe that does not fit its reader."""
    reader = look_up("reader", recipe.reader, READERS)
    if isinstance(reader, Reader):
        reader.check(recipe)


def read_source(recipe: Recipe, folder: Path | None) -> Source:
    """Check the recipe and read the source in `folder`; raises UserError for a folder with another layout."""
    check_recipe(recipe)
    read = READERS[recipe.reader].read if recipe.reader in READERS else read_own
    source = with_boxes(read(recipe, folder), recipe, folder)
    return replace(source, records=with_one_id_per_file(source.records))
