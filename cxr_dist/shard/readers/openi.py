"""Read Open-i, the Indiana University collection: ecgen-radiology/*.xml and a folder of PNG images.

Each `parentImage` becomes a record. The label is the first `MeSH/major` term, capitalised, or `Other` if there is none.
The reports have no patient id, so that each report is taken as a separate patient and study.
"""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

from cxr_dist.errors import out_of_files, require
from cxr_dist.files import open_regular
from cxr_dist.format.csv_table import read_csv
from cxr_dist.format.image import ImageFile
from cxr_dist.format.left_out import UNREADABLE_REPORT
from cxr_dist.shard.readers.recipe_checks import (
    check_no_columns,
    check_no_official_split,
    check_one_label,
    check_views,
)
from cxr_dist.shard.readers.source_paths import inside, source_folder
from cxr_dist.shard.recipe import Recipe
from cxr_dist.shard.record import Record, Source

_LONGEST_REPORT = 2**22  # bytes; a thousand times the published ones
OPENI_SECTIONS = ("indication", "comparison", "findings", "impression")


def check(recipe: Recipe) -> None:
    """Raise UserError for a recipe without reports, or with fields that do not apply to Open-i."""
    check_views(recipe, "`table`, the .csv of views" if recipe.table is None else "")
    check_no_columns(recipe)
    check_no_official_split(recipe)
    require(recipe.reports is not None, "recipe: reader openi needs `reports`, a folder")
    check_one_label(recipe)


def read(recipe: Recipe, folder: Path | None) -> Source:
    """All images that the reports name; raises UserError if the reports or the folder of images are missing."""
    assert recipe.reports is not None
    root = source_folder(folder, "openi")
    reports = sorted(inside(root, recipe.reports, "reports").glob("*.xml"))
    require(bool(reports), f"no .xml in {recipe.reports}: expected Open-i's NLMCXR_reports.tgz, unpacked")
    folder = inside(root, recipe.images, "images")
    require(folder.is_dir(), f"{recipe.images} is not a folder: expected Open-i's images in the recipe's images")
    images = {name: folder / name for name in os.listdir(folder)}
    views = {} if recipe.table is None else _views(inside(root, recipe.table, "table"))
    records: list[Record] = []
    left_out: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    for path in reports:
        report = _parsed(path)
        if report is None:
            left_out[UNREADABLE_REPORT] += 1
            continue
        for record in _records(report, path.stem, images, views, inverted=bool(recipe.image.monochrome1)):
            seen[record.image_id] += 1
            again = f"#{seen[record.image_id]}" if seen[record.image_id] > 1 else ""  # in another report
            records.append(replace(record, source_id=f"{record.image_id}{again}"))
    return Source(records=records, text_sections=OPENI_SECTIONS, left_out=left_out)


def _parsed(path: Path) -> ElementTree.Element | None:
    """The report; None if it is not a file, not XML, in an unknown encoding or longer than any report.

    Expat neither opens other files nor expands entities beyond a limit.
    """
    try:
        with open_regular(path) as file:
            content = file.read(_LONGEST_REPORT + 1)
        return None if len(content) > _LONGEST_REPORT else ElementTree.fromstring(content)
    except (ElementTree.ParseError, OSError, ValueError, LookupError) as error:
        if too_many := out_of_files(error):
            raise too_many from None
        return None


def _records(
    report: ElementTree.Element, study: str, images: dict[str, Path], views: dict[str, str], inverted: bool
) -> Iterator[Record]:
    terms = [term.text.strip() for term in report.findall("MeSH/major") if term.text and term.text.strip()]
    text = dict.fromkeys(OPENI_SECTIONS, "")
    for part in report.iter("AbstractText"):
        section = part.get("Label", "").lower()
        if section in text:
            text[section] = " ".join("".join(part.itertext()).split())
    for image in report.findall("parentImage"):
        name = image.get("id", "")
        file = next((images[n] for n in _file_names(name) if n in images), None)
        view = next((views[n] for n in _file_names(name) if n in views), "")
        yield Record(
            source_id=name,
            image_id=name,
            study=study,
            patient=study,
            view=view,
            values=(terms[0].capitalize() if terms else "Other",),
            text=text,
            fields={"view": view},
            pixels=None if file is None else ImageFile(path=file, inverted=inverted),
        )


def _file_names(image_id: str) -> tuple[str, str]:
    """Open-i's own name of an image file, and the name in redistributed copies: without CXR<report>_."""
    return f"{image_id}.png", f"{image_id.partition('_')[2]}.dcm.png"


def _views(path: Path) -> dict[str, str]:
    """File name -> view, from a table with the columns filename and projection."""
    _, table = read_csv(path, ("filename", "projection"))
    require(
        len(table) == 2, f"{path.name} has no columns filename and projection: the recipe's table must give the views"
    )
    return dict(zip(table["filename"], table["projection"], strict=True))
