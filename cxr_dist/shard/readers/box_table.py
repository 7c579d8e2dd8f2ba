"""Read the recipe's table of boxes and give each record the boxes of its image, whichever reader made the record.

Every row that gives no box is counted by reason. Boxes become shares of the image's width and height here, because the
stored image is smaller than the image on which they were drawn.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from cxr_dist.errors import UserError, require
from cxr_dist.format.image import ImageFile
from cxr_dist.format.left_out import BOX_OUTSIDE, BOX_UNKNOWN_IMAGE, BOX_UNREADABLE_IMAGE, BOX_WITHOUT_SIZE
from cxr_dist.format.stored_boxes import Corners
from cxr_dist.shard.readers.source_paths import only_file, source_folder
from cxr_dist.shard.readers.table import read_table
from cxr_dist.shard.recipe import Boxes, Recipe
from cxr_dist.shard.record import LabelledBox, Pixels, Source

_OVERHANG = 0.01  # share of the image's side by which a box may reach over its border; it is then cut there
_DIGITS = 6


def with_boxes(source: Source, recipe: Recipe, folder: Path | None) -> Source:
    """The source with the boxes of the recipe's `boxes`, if there is one.

    Raises UserError for a table that cannot be read, and if no row fits: none has four numbers, none names an image of
    the source, or most boxes lie outside of their images.
    """
    rule = recipe.boxes
    if rule is None:
        return source
    path = only_file(source_folder(folder, recipe.reader), rule.table, "boxes.table")
    named = [("boxes.image", rule.image), ("boxes.label", rule.label), *(("boxes.box", name) for name in rule.box)]
    rows = read_table(path, named)
    images = {record.image_id: record.pixels for record in source.records}
    left_out: Counter[str] = Counter()
    boxes: defaultdict[str, list[LabelledBox]] = defaultdict(list)

    @cache
    def size_of(image: str) -> tuple[int, int] | None:
        return rule.size or _file_size(images[image])

    for row in rows:
        image, box = row[rule.image], _placed(row, rule)
        if box is None:
            left_out[BOX_WITHOUT_SIZE] += 1
        elif image not in images:
            left_out[BOX_UNKNOWN_IMAGE] += 1
        elif (size := size_of(image)) is None:
            left_out[BOX_UNREADABLE_IMAGE] += 1
        elif (shares := _shares(box, size)) is None:
            left_out[BOX_OUTSIDE] += 1
        else:
            boxes[image].append(LabelledBox(label=row[rule.label], box=shares))
    _check_some_fit(path.name, rule, len(rows), left_out)
    records = [
        replace(record, boxes=tuple(boxes[record.image_id])) if record.image_id in boxes else record
        for record in source.records
    ]
    return replace(source, records=records, boxes_left_out=dict(left_out))


def _placed(row: Mapping[str, str], rule: Boxes) -> Sequence[float] | None:
    """x, y, width and height in pixels; None unless they are numbers and the box has an area."""
    try:
        values = [float(row[name]) for name in rule.box]
    except ValueError:
        return None
    return values if all(map(math.isfinite, values)) and values[2] > 0 and values[3] > 0 else None


def _shares(box: Sequence[float], size: tuple[int, int]) -> Corners | None:
    """The box in shares of the image, cut at its borders; None if it lies outside, at least in part."""
    (x, y, width, height), (whole_width, whole_height) = box, size
    corners = (x / whole_width, y / whole_height, (x + width) / whole_width, (y + height) / whole_height)
    if min(corners) < -_OVERHANG or max(corners) > 1 + _OVERHANG:
        return None
    left, top, right, bottom = (round(min(max(corner, 0.0), 1.0), _DIGITS) for corner in corners)
    return (left, top, right, bottom) if left < right and top < bottom else None


def _file_size(pixels: Pixels | None) -> tuple[int, int] | None:
    """Width and height of an image file; None for one that cannot be read."""
    require(
        pixels is None or isinstance(pixels, ImageFile),
        "recipe: boxes.size is needed, because the images are not files: give the width and height in pixels of the "
        "images that the boxes were drawn on",
    )
    return pixels.size() if isinstance(pixels, ImageFile) else None


def _check_some_fit(table: str, rule: Boxes, num_rows: int, left_out: Counter[str]) -> None:
    """Raise UserError if the recipe, not single rows, must be wrong."""
    with_size = num_rows - left_out[BOX_WITHOUT_SIZE]
    if with_size == 0:
        raise UserError(
            f"none of the {num_rows} rows of {table} has four numbers with a positive width and height in the columns "
            f"{', '.join(rule.box)}: check the recipe's boxes.box"
        )
    known = with_size - left_out[BOX_UNKNOWN_IMAGE]
    if known == 0:
        raise UserError(
            f"none of the {with_size} boxes of {table} is on an image of the source: check the recipe's boxes.image "
            f"({rule.image}), whose names must be those of the images, with their endings"
        )
    if 2 * left_out[BOX_OUTSIDE] > known:
        drawn = "the image files" if rule.size is None else f"{rule.size[0]} x {rule.size[1]} pixels (boxes.size)"
        raise UserError(
            f"{left_out[BOX_OUTSIDE]} of {known} boxes of {table} reach out of {drawn}: set the recipe's boxes.size to "
            "the width and height of the images that the boxes were drawn on"
        )
