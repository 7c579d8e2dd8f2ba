"""Read MIMIC-CXR-JPG 2.x as published: files/p10/p10000032/s50414267/DICOM_ID.jpg and the .csv.gz tables.

Each row of the metadata becomes a record. The images of a study share its labels and its report. Reports (from
MIMIC-CXR) and sex and age (from MIMIC-IV's patients.csv.gz) are optional. With `image_ending: .dcm` the images are
those of MIMIC-CXR, DICOM files in the same folders.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd

from cxr_dist.errors import UserError, require
from cxr_dist.format.csv_table import read_csv
from cxr_dist.format.image import ImageFile
from cxr_dist.format.report_sections import MIMIC_SECTIONS
from cxr_dist.shard.person import Sex, age_between, sex_of
from cxr_dist.shard.projection import projection
from cxr_dist.shard.readers.mimic_reports import StudyIds, read_sections
from cxr_dist.shard.readers.recipe_checks import check_no_columns
from cxr_dist.shard.readers.source_paths import inside, source_folder
from cxr_dist.shard.recipe import Recipe
from cxr_dist.shard.record import Record, Source

_METADATA = (
    "dicom_id", "subject_id", "study_id", "StudyDate", "ViewPosition", "PerformedProcedureStepDescription",
)  # fmt: skip
_IDS = {"dicom_id": "[0-9a-f-]+", "subject_id": "[0-9]+", "study_id": "[0-9]+"}
_SPLITS = {"train": "train", "validate": "val", "test": "test"}
_UNKNOWN_PERSON: tuple[Sex, str] = ("", "")


@dataclass(frozen=True, kw_only=True)
class _Tables:
    """The contents of the files beside the metadata."""

    label_columns: tuple[str, ...]
    labels: Mapping[str, tuple[str, ...]]
    """study_id -> one value per label column."""
    splits: Mapping[str, str]
    """dicom_id -> train, val or test."""
    reports: Mapping[tuple[str, str], Mapping[str, str]]
    """(subject_id, study_id) -> section -> text."""
    persons: Mapping[str, tuple[Sex, str]]
    """subject_id -> sex and the (shifted) year of birth."""


def check(recipe: Recipe) -> None:
    """Raise UserError for a recipe without a table of labels, or with labels that are not columns of it."""
    check_no_columns(recipe)
    labels = recipe.labels
    require(
        recipe.table is not None,
        "recipe: reader mimic_cxr_jpg needs `table`, the .csv.gz of labels, e.g. mimic-cxr-2.0.0-chexpert.csv.gz",
    )
    require(labels.task == "multilabel", "recipe: reader mimic_cxr_jpg needs labels.task: multilabel")
    require(
        not (labels.drop or labels.separator or labels.min_count > 1),
        "recipe: reader mimic_cxr_jpg has a column per class: remove labels.drop, min_count and separator",
    )
    several = [name for name, columns in labels.classes.items() if len(columns) != 1 or columns[0] == "*"]
    require(not several, f"recipe: labels.classes.{''.join(several[:1])} must name one column of the labels")


def read(recipe: Recipe, folder: Path | None) -> Source:
    """All images of the metadata; raises UserError for a file that is missing, not a table or lacks a column."""
    root = source_folder(folder, "mimic_cxr_jpg")
    metadata = _read_table(_published(root, "metadata"), _METADATA)
    if metadata["dicom_id"].duplicated().any():
        raise UserError("the metadata have a dicom_id twice: expected the published file with a row per image")
    _check_ids(metadata)
    images = inside(root, recipe.images, "images")
    tables = _tables(recipe, root, studies=zip(metadata["subject_id"], metadata["study_id"], strict=True))
    rows = zip(*(metadata[column] for column in _METADATA), strict=True)
    return Source(
        records=[_record(row, tables, images, recipe) for row in rows],
        text_sections=() if recipe.reports is None else MIMIC_SECTIONS,
        label_columns=tuple(recipe.labels.classes) or tables.label_columns,
    )


def _check_ids(metadata: pd.DataFrame) -> None:
    """Raise UserError for an id of another form: ids become parts of paths, which must not lead out of the source."""
    for column, pattern in _IDS.items():
        invalid = (~metadata[column].str.fullmatch(pattern)).to_numpy().nonzero()[0]
        if len(invalid):
            raise UserError(
                f"row {invalid[0] + 1} of the metadata has an invalid {column}: expected the published file of "
                f"MIMIC-CXR-JPG ({pattern})"
            )


def _tables(recipe: Recipe, root: Path, studies: Iterable[StudyIds]) -> _Tables:
    assert recipe.table is not None
    columns, labels = _labels(recipe, inside(root, recipe.table, "table"))
    return _Tables(
        label_columns=columns,
        labels=labels,
        splits=_official_split(_published(root, "split")) if recipe.split.official else {},
        reports={} if recipe.reports is None else read_sections(inside(root, recipe.reports, "reports"), studies),
        persons={} if recipe.patients is None else _persons(inside(root, recipe.patients, "patients")),
    )


def _record(row: Sequence[str], tables: _Tables, images: Path, recipe: Recipe) -> Record:
    dicom, patient, study, date, view, procedure = row
    split = tables.splits.get(dicom, "")
    sex, birth = tables.persons.get(patient, _UNKNOWN_PERSON)
    file = f"p{patient[:2]}/p{patient}/s{study}/{dicom}{recipe.image_ending}"
    return Record(
        source_id=dicom,
        image_id=dicom,
        study=study,
        patient=patient,
        view=view,
        sex=sex,
        age=age_between(birth, date),
        values=tables.labels.get(study, ()),
        text=tables.reports.get((patient, study), {}),
        fields=_fields(view, procedure, split),
        split=split,
        pixels=ImageFile(path=images / file, inverted=bool(recipe.image.monochrome1)),
    )


@cache
def _fields(view: str, procedure: str, split: str) -> Mapping[str, str]:
    """Cached, so that all images with the same values share one mapping."""
    return {
        "projection": projection(view),
        "ViewPosition": view,
        "PerformedProcedureStepDescription": procedure,
        "split": split,
    }


def _labels(recipe: Recipe, path: Path) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    """The label columns, and the values of each study."""
    chosen = tuple(column for (column,) in recipe.labels.classes.values())
    table = _read_table(path, ("study_id", *chosen) if chosen else None)
    columns = chosen or tuple(name for name in table.columns if name not in ("subject_id", "study_id"))
    if table["study_id"].duplicated().any():
        raise UserError(f"{path.name} has a study_id twice: expected a row per study")
    values = zip(*(table[column] for column in columns), strict=True)
    return columns, dict(zip(table["study_id"], values, strict=True))


def _official_split(path: Path) -> dict[str, str]:
    table = _read_table(path, ("dicom_id", "split"))
    unknown = sorted(set(table["split"]) - set(_SPLITS))
    if unknown:
        raise UserError(f"{path.name} has the split {unknown[0]!r}; expected {', '.join(_SPLITS)}")
    return dict(zip(table["dicom_id"], table["split"].map(_SPLITS), strict=True))


def _persons(path: Path) -> dict[str, tuple[Sex, str]]:
    """subject_id -> sex and year of birth. MIMIC-IV states the age in an anchor year, and any age above 89 as 91."""
    table = _read_table(path, ("subject_id", "gender", "anchor_age", "anchor_year"))
    years = pd.to_numeric(table["anchor_year"], "coerce") - pd.to_numeric(table["anchor_age"], "coerce")
    births = ("" if year != year else str(int(year)) for year in years)  # NaN is not equal to itself
    return dict(zip(table["subject_id"], zip(map(sex_of, table["gender"]), births, strict=True), strict=True))


def _published(root: Path, kind: str) -> Path:
    """The newest mimic-cxr-VERSION-KIND.csv.gz, which may be unpacked."""
    found = sorted(root.glob(f"mimic-cxr-*-{kind}.csv*"))
    require(bool(found), f"no mimic-cxr-2.0.0-{kind}.csv.gz in {root}: --source is the folder of MIMIC-CXR-JPG")
    return found[-1]


def _read_table(path: Path, columns: Sequence[str] | None) -> pd.DataFrame:
    """Exactly these columns of a table, as text; for None all columns, which must include study_id."""
    table = pd.DataFrame(read_csv(path, columns)[1], dtype=str)
    missing = [name for name in columns or ("study_id",) if name not in table.columns]
    if missing:
        raise UserError(f"{path.name} has no column {missing[0]!r}: expected MIMIC-CXR-JPG's published file")
    return table
