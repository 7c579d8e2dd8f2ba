"""Read a folder of DICOM files, nested as it comes, and a table of labels that a tag joins to them.

A file ends in .dcm or .dicom, or has no ending and DICOM content. The header decides whether its image can be used;
pixels are not read here. Only the tags that the recipe names get into a record.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cxr_dist.errors import UserError, out_of_files, require
from cxr_dist.files import open_regular
from cxr_dist.format.dicom_header import check_image, is_dicom, need_pydicom, open_dicom
from cxr_dist.format.image import ImageFile
from cxr_dist.format.left_out import (
    DICOM_BURNED_IN,
    DICOM_NOT_IN_TABLE,
    ROW_WITHOUT_DICOM,
    UNREADABLE_IMAGE,
    ImageProblem,
)
from cxr_dist.shard.columns import Columns
from cxr_dist.shard.person import age_of, sex_of
from cxr_dist.shard.readers.recipe_checks import check_no_official_split, check_views
from cxr_dist.shard.readers.source_paths import inside, only_file, source_folder
from cxr_dist.shard.readers.table import check_label_columns, label_values, read_table
from cxr_dist.shard.recipe import Recipe
from cxr_dist.shard.record import Record, Source

_ENDINGS = (".dcm", ".dicom")
_HEAD = 2**18  # bytes that are read first; most headers are shorter
_THREADS = 8
_FORBIDDEN = ("DA", "DT", "TM", "PN")
_TEXT = ("AE", "AS", "CS", "DS", "IS", "LO", "LT", "SH", "ST", "UC", "UI", "US", "UT")
_SAME_IMAGE = "SOPInstanceUID"

_Tags = dict[str, str]


def check(recipe: Recipe) -> None:
    """Raise UserError for a recipe without table, join or labels, or with a tag that no record may hold."""
    check_no_official_split(recipe)
    columns, join = recipe.columns, recipe.join
    require(recipe.table is not None, "recipe: reader dicom needs `table`, the .csv, .tsv or .parquet file of labels")
    require(
        join is not None,
        "recipe: reader dicom needs `join`, e.g. join: {column: accession, tag: AccessionNumber}",
    )
    require(columns is not None, "recipe: reader dicom needs `columns`, with label")
    assert columns is not None
    others = ("image", "patient", "study", "view", "sex", "age")
    named = [name for name in others if getattr(columns, name)]
    require(
        not named,
        f"recipe: reader dicom takes this from tags: remove columns.{''.join(named[:1])}, see the section dicom",
    )
    require(
        recipe.image.monochrome1 is False,
        "recipe: a DICOM file says itself whether it is inverted: remove image.monochrome1",
    )
    check_label_columns(recipe.labels, columns)
    check_views(recipe, "dicom.view, e.g. ViewPosition" if recipe.dicom.view is None else "")
    _check_tags(recipe)


def _check_tags(recipe: Recipe) -> None:
    need_pydicom()
    from pydicom.datadict import dictionary_VR, tag_for_keyword

    for setting, keyword in _named_tags(recipe):
        require(
            tag_for_keyword(keyword) is not None,
            f"recipe: {setting} names {keyword!r}, which is no keyword of the DICOM standard; expected one such as "
            "AccessionNumber or ViewPosition",
        )
        kind = dictionary_VR(keyword)
        require(
            kind not in _FORBIDDEN,
            f"recipe: {setting} names {keyword}, a date, a time or the name of a person; these are not read from DICOM "
            "files",
        )
        require(kind in _TEXT, f"recipe: {setting} names {keyword}, which holds no single text or number")


def _named_tags(recipe: Recipe) -> list[tuple[str, str]]:
    """Return (setting, keyword) for every tag that the recipe names."""
    tags = recipe.dicom
    named = [(f"dicom.{name}", getattr(tags, name)) for name in ("patient", "study", "view", "sex", "age")]
    named += [("join.tag", recipe.join.tag if recipe.join else None), *(("where", name) for name in recipe.where)]
    return [(setting, keyword) for setting, keyword in named if keyword is not None]


def read(recipe: Recipe, folder: Path | None) -> Source:
    """A record for every DICOM radiograph that the table names; raises UserError for a table that fits no file."""
    assert recipe.table is not None
    assert recipe.columns is not None
    assert recipe.join is not None
    root = source_folder(folder, "dicom")
    images = inside(root, recipe.images, "images")
    rows = _rows_by_key(recipe, only_file(root, recipe.table, "table"), recipe.columns)
    keywords = tuple(dict.fromkeys(keyword for _, keyword in _named_tags(recipe)))
    left_out: Counter[str] = Counter()
    records: list[Record] = []
    used: set[str] = set()
    paths = sorted(_files(images))
    with ThreadPoolExecutor(_THREADS) as threads:
        for path, tags in zip(paths, threads.map(lambda path: _tags_of(path, keywords, recipe), paths), strict=True):
            if isinstance(tags, str):  # the reason why there are none
                left_out[tags] += 1
            elif (key := tags[recipe.join.tag]) not in rows or not key:
                left_out[DICOM_NOT_IN_TABLE] += 1
            else:
                used.add(key)
                records.append(_record(path, images, tags, rows[key], recipe, recipe.columns))
    require(
        bool(paths), f"no DICOM file in {recipe.images}: expected files that end in .dcm, or DICOM without an ending"
    )
    require(
        bool(records) or not left_out[DICOM_NOT_IN_TABLE],
        f"none of {left_out[DICOM_NOT_IN_TABLE]} DICOM files has a {recipe.join.tag} that the column "
        f"{recipe.join.column!r} of {recipe.table} holds: check the recipe's join",
    )
    if unused := len(rows) - len(used):
        left_out[ROW_WITHOUT_DICOM] = unused
    return Source(
        records=records,
        text_sections=tuple(recipe.columns.text),
        label_columns=recipe.columns.labels,
        left_out=dict(left_out),
    )


def _rows_by_key(recipe: Recipe, table: Path, columns: Columns) -> dict[str, dict[str, str]]:
    assert recipe.join is not None
    named = [("join.column", recipe.join.column)]
    named += [("columns.label", columns.label)] if columns.label is not None else []
    named += [("columns.labels", column) for column in columns.labels]
    named += [(f"columns.text.{section}", column) for section, column in columns.text.items()]
    found: dict[str, dict[str, str]] = {}
    for number, row in enumerate(read_table(table, named), start=1):
        if found.setdefault(row[recipe.join.column], row) is not row:
            raise UserError(
                f"row {number} of {table.name} repeats a value of the column {recipe.join.column!r}: expected one "
                f"row per {recipe.join.tag}"
            )
    return found


def _files(folder: Path) -> Iterator[Path]:
    """The files that may be DICOM, in all folders below."""
    for path in folder.rglob("*"):
        if path.is_file() and (path.suffix.lower() in _ENDINGS or (not path.suffix and is_dicom(_head(path, 132)))):
            yield path


def _head(path: Path, size: int) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read(size)
    except OSError as error:
        if too_many := out_of_files(error):
            raise too_many from None
        return b""


def _tags_of(path: Path, keywords: Sequence[str], recipe: Recipe) -> _Tags | str:
    """The text of each tag, empty if the file lacks it; or the reason why the file is left out."""
    try:
        start = _head(path, _HEAD)
        try:
            return _tags_in(start, keywords, recipe, whole=len(start) < _HEAD)
        except _CutShortError:
            return _tags_in(_head(path, 2**28), keywords, recipe, whole=True)
    except (UserError, MemoryError):
        raise
    except ImageProblem as problem:
        return problem.reason
    except Exception as error:  # pydicom raises many types of errors for a damaged header
        if too_many := out_of_files(error):
            raise too_many from None
        return UNREADABLE_IMAGE


class _CutShortError(Exception):
    """The header is longer than what was read of the file."""


def _tags_in(content: bytes, keywords: Sequence[str], recipe: Recipe, *, whole: bool) -> _Tags | str:
    try:
        file = open_dicom(content, (*keywords, _SAME_IMAGE))
    except ImageProblem:
        if whole:
            raise
        raise _CutShortError from None
    if not whole and not file.rest.read(4):
        raise _CutShortError
    check_image(file)
    burned_in = str(file.header.get("BurnedInAnnotation") or "").strip().upper() == "YES"
    if burned_in and recipe.dicom.burned_in == "leave_out":
        return DICOM_BURNED_IN
    return {name: _text(file.header.get(name)) for name in (*keywords, _SAME_IMAGE)}


def _text(value: object) -> str:
    """The first value of an element."""
    if value is None:
        return ""
    if not isinstance(value, str) and isinstance(value, Sequence):
        value = value[0] if value else ""
    return str(value).strip()


def _record(path: Path, images: Path, tags: _Tags, row: Mapping[str, str], recipe: Recipe, columns: Columns) -> Record:
    names, name = recipe.dicom, path.relative_to(images).as_posix()
    return Record(
        source_id=name,
        image_id=tags[_SAME_IMAGE] or name,
        study=tags[names.study],
        patient=tags[names.patient],
        view="" if names.view is None else tags[names.view],
        sex="" if names.sex is None else sex_of(tags[names.sex]),
        age=None if names.age is None else age_of(tags[names.age]),
        values=label_values(dict(row), columns, recipe.labels.separator),
        text={section: row[column] for section, column in columns.text.items()},
        fields={keyword: tags[keyword] for keyword in recipe.where},
        pixels=ImageFile(path=path),
    )
