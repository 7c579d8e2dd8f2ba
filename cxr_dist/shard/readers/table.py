"""Read a table with one row per image: .csv, .tsv (both also .gz) or .parquet.

The recipe says which column holds what. All values are text; an empty cell is an unknown value.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from cxr_dist.errors import UserError, require
from cxr_dist.format.csv_table import read_csv
from cxr_dist.format.image import ImageFile
from cxr_dist.format.parquet_table import read_parquet
from cxr_dist.shard.columns import Columns, PartOf, YearsBetween, names_in
from cxr_dist.shard.person import age_between, age_of, sex_of
from cxr_dist.shard.readers.recipe_checks import check_no_official_split, check_views
from cxr_dist.shard.readers.source_paths import image_finder, only_file, source_folder
from cxr_dist.shard.recipe import InvertedRows, Labels, Recipe
from cxr_dist.shard.record import Record, Source

_Row = dict[str, str]
_KINDS = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")
_QUOTED = re.compile(r"""'([^']*)'|"([^"]*)\"""")


def check(recipe: Recipe) -> None:
    """Raise UserError for a recipe without a table, or without a column that it needs."""
    check_no_official_split(recipe)
    require(recipe.table is not None, "recipe: reader table needs `table`, the .csv, .tsv or .parquet file")
    require(recipe.columns is not None, "recipe: reader table needs `columns`, with image and label")
    assert recipe.columns is not None
    columns, by = recipe.columns, recipe.split.by
    require(columns.image != "", "recipe: reader table needs columns.image, the column of the image files")
    require(recipe.samples == "image" or columns.study is not None, "recipe: samples: study needs columns.study")
    check_views(recipe, "columns.view" if columns.view is None else "")
    check_label_columns(recipe.labels, columns)
    require(by == "image" or getattr(columns, by) is not None, f"recipe: split by {by} needs columns.{by}")


def check_label_columns(labels: Labels, columns: Columns) -> None:
    """Raise UserError unless the columns of labels fit the task."""
    if columns.labels:
        require(labels.task == "multilabel", "recipe: columns.labels needs labels.task: multilabel")
        require(
            not (labels.classes or labels.drop or labels.separator or labels.min_count > 1),
            "recipe: with columns.labels the columns are the classes: remove labels.classes, drop, min_count "
            "and separator",
        )
    elif labels.task == "multilabel":
        require(
            labels.separator is not None and bool(labels.classes),
            "recipe: multilabel with columns.label needs labels.separator and labels.classes",
        )


def read(recipe: Recipe, folder: Path | None) -> Source:
    """A record for every row; raises UserError for an unknown column or a table that cannot be read."""
    table, columns = recipe.table, recipe.columns
    assert table is not None
    assert columns is not None
    root = source_folder(folder, "table")
    rows = read_table(only_file(root, table, "table"), _named_columns(recipe, columns))
    find = image_finder(root, recipe.images)
    _check_images_inside(rows, recipe, columns.image, find)
    seen: Counter[str] = Counter()
    records = []
    for row in rows:
        name = row[columns.image]
        seen[name] += 1
        records.append(_record(row, recipe, columns, find, times_seen=seen[name]))
    if not any(record.sex for record in records):
        _check_empty(rows, "sex", names_in(columns.sex), "F, M, female or male")
    if all(record.age is None for record in records):
        _check_empty(rows, "age", names_in(columns.age), "years, or DICOM's 052Y")
    return Source(records=records, text_sections=tuple(columns.text), label_columns=columns.labels)


def _record(row: _Row, recipe: Recipe, columns: Columns, find: Callable[[str], Path | None], times_seen: int) -> Record:
    name = row[columns.image]
    path = find(name) if name else None
    # Several rows can name the same image; each needs a unique id.
    source_id = name if name and times_seen == 1 else f"{name}#{times_seen}"
    study = source_id if columns.study is None else _id(row, columns.study)
    return Record(
        source_id=source_id,
        image_id=name or source_id,
        study=study,
        patient=study if columns.patient is None else _id(row, columns.patient),
        view="" if columns.view is None else row[columns.view],
        sex="" if columns.sex is None else sex_of(row[columns.sex]),
        age=_age(row, columns.age),
        values=label_values(row, columns, recipe.labels.separator),
        text={section: row[column] for section, column in columns.text.items()},
        fields={column: row[column] for column in recipe.where},
        pixels=None if path is None else ImageFile(path=path, inverted=_inverted(row, recipe)),
    )


def _check_images_inside(rows: Sequence[_Row], recipe: Recipe, column: str, find: Callable[[str], Path | None]) -> None:
    """Raise UserError for a path outside of `images` in a row that `where` keeps.

    A table from elsewhere must not copy other files of this machine into the shards.
    """
    where = recipe.where.items()
    outside = [
        number
        for number, row in enumerate(rows, start=1)
        if find(row[column]) is None and all(row[name] in values for name, values in where)
    ]
    if outside:
        raise UserError(
            f"column {column!r} leads out of the recipe's images ({recipe.images}) in {len(outside)} rows of "
            f"{recipe.table}, the first is row {outside[0]}: set images to a folder that contains all images"
        )


def _id(row: _Row, setting: str | PartOf) -> str:
    if isinstance(setting, str):
        return row[setting]
    match = re.search(setting.pattern, row[setting.column])
    return match[0] if match else ""


def _age(row: _Row, setting: str | YearsBetween | None) -> float | None:
    if isinstance(setting, YearsBetween):
        return age_between(row[setting.birth], row[setting.study])
    return None if setting is None else age_of(row[setting])


def _check_empty(rows: Sequence[_Row], name: str, columns: Sequence[str], expected: str) -> None:
    """Raise UserError for any value: none could be parsed, and all would silently become unknown."""
    values = sum(all(row[column] for column in columns) for row in rows) if columns else 0
    if values:
        raise UserError(
            f"recipe: columns.{name} names {' and '.join(map(repr, columns))}, and none of its {values} values is "
            f"one of: {expected}; convert the values, or remove the column from the recipe"
        )


def label_values(row: _Row, columns: Columns, separator: str | None) -> tuple[str, ...]:
    """The values of a row's label, or of each column of labels."""
    if columns.label is None:
        return tuple(row[column] for column in columns.labels)
    if separator is None:
        return (row[columns.label],)
    cell = row[columns.label]
    if separator == "list":
        parts = [single or double for single, double in _QUOTED.findall(cell)]
    else:
        parts = cell.split(separator)
    return tuple(part.strip() for part in parts if part.strip())


def _inverted(row: _Row, recipe: Recipe) -> bool:
    rule = recipe.image.monochrome1
    return row[rule.column] == rule.value if isinstance(rule, InvertedRows) else rule


def _named_columns(recipe: Recipe, columns: Columns) -> list[tuple[str, str]]:
    """(setting, column) for every column that the recipe names."""
    names = ("image", "patient", "study", "view", "sex", "age", "label")
    named = [(f"columns.{name}", column) for name in names for column in names_in(getattr(columns, name))]
    named += [("columns.labels", column) for column in columns.labels]
    named += [(f"columns.text.{section}", column) for section, column in columns.text.items()]
    named += [("where", column) for column in recipe.where]
    rule = recipe.image.monochrome1
    return named + ([("image.monochrome1", rule.column)] if isinstance(rule, InvertedRows) else [])


def _instead(names: Sequence[str], wanted: Sequence[str]) -> str:
    """What a table has in place of a column. If there is no header, its first row is a patient's and is not shown."""
    if set(names).isdisjoint(wanted):
        return (
            f"has {len(names)} columns and none that the recipe names: expected the names of the columns in its first "
            "line, separated by commas (.csv) or tabs (.tsv)"
        )
    return f"has: {', '.join(' '.join(name.split()) for name in names[:60])}"


def read_table(path: Path, named: Sequence[tuple[str, str]]) -> list[_Row]:
    """The rows of a table, with the columns that are `named` as (setting of the recipe, column).

    Raises UserError for another type of file, a damaged table or an unknown column.
    """
    kind = next((kind for kind in _KINDS if path.name.lower().endswith(kind)), None)
    if kind is None:
        raise UserError(f"the table {path.name} ends in {path.suffix or 'nothing'}; expected {', '.join(_KINDS)}")
    wanted = list(dict.fromkeys(column for _, column in named))
    if kind == ".parquet":
        names, columns = read_parquet(path, wanted)
    else:
        names, columns = read_csv(path, wanted, "\t" if kind.startswith(".tsv") else ",")
    for setting, column in named:
        if column not in names:
            raise UserError(f"recipe: {setting} names the column {column!r}; {path.name} {_instead(names, wanted)}")
    cells = zip(*(columns[name] for name in wanted), strict=True)
    return [dict(zip(wanted, map(str.strip, row), strict=True)) for row in cells]
