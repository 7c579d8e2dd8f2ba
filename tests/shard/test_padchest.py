"""The PadChest recipe on the published table: lists of labels, ages from two years, shards of some rows."""

import dataclasses
import re
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from table_source import write_image

from cxr_dist.shard.readers import read_source
from cxr_dist.shard.recipe import load_recipe
from cxr_dist.shard.record import Source
from cxr_dist.shard.select import Selection, select
from cxr_dist.shard.verify import verify
from cxr_dist.shard.write import write_shards

PADCHEST = load_recipe(Path(__file__).resolve().parents[2] / "shards" / "padchest.yaml")


@pytest.fixture(scope="module")
def table(published_tables: Path) -> pd.DataFrame:
    """The columns that the recipe names, and a column with the set of labels of each row."""
    columns = ["ImageID", "StudyDate_DICOM", "PatientID", "PatientBirth", "PatientSex_DICOM", "Projection"]
    table = pd.read_csv(published_tables / PADCHEST.table, usecols=[*columns, "Pediatric", "Labels"])
    quoted = table["Labels"].fillna("[]").str.strip("[]").str.split(",")
    return table.assign(labels=[{part.strip(" '") for part in parts} - {""} for parts in quoted])


@pytest.fixture(scope="module")
def source(published_tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Source:
    root = tmp_path_factory.mktemp("padchest")
    (root / PADCHEST.table).symlink_to(published_tables / PADCHEST.table)
    (root / "images").mkdir()
    return read_source(PADCHEST, root)


@pytest.fixture(scope="module")
def selection(source: Source) -> Selection:
    return select(PADCHEST, source)


def test_every_row_becomes_a_record_with_its_labels(source, table):
    assert len(source.records) == len(table) == 160_861
    assert [set(record.values) for record in source.records] == table["labels"].tolist()
    assert Counter(record.sex for record in source.records) == {"M": 80_920, "F": 79_919, "": 22}


def test_the_age_is_the_year_of_the_study_minus_the_year_of_birth(source, table):
    years = table["StudyDate_DICOM"] // 10_000 - table["PatientBirth"]
    assert [record.age for record in source.records] == [None if age != age else age for age in years]


def test_label_counts_equal_those_of_pandas(selection, table):
    wanted = table[table["Projection"].isin(PADCHEST.where["Projection"]) & (table["Pediatric"] == "No")]
    dropped = wanted["labels"].map(lambda labels: bool(labels & set(PADCHEST.labels.drop)))
    empty = wanted["labels"].map(len) == 0
    kept = wanted[~dropped & ~empty]
    assert len(selection.samples) == len(kept) > 90_000
    assert selection.left_out == {
        "not selected by the recipe's where": len(table) - len(wanted),
        "label value dropped by the recipe": dropped.sum(),
        "no label": empty.sum(),
    }
    for index, (name, patterns) in enumerate(PADCHEST.labels.classes.items()):
        fits = re.compile("|".join(pattern.replace("*", ".*") for pattern in patterns))
        expected = kept["labels"].map(lambda labels, fits=fits: any(map(fits.fullmatch, labels))).sum()
        assert sum(sample.label[index] for sample in selection.samples) == expected > 250, name


def test_no_patient_is_in_two_splits_and_the_shares_of_each_class_are_met(selection):
    split_of: dict[str, set[str]] = {}
    for sample in selection.samples:
        split_of.setdefault(sample.patient, set()).add(sample.split)
    assert all(len(splits) == 1 for splits in split_of.values())
    for index in range(len(selection.classes)):
        present = Counter(sample.split for sample in selection.samples if sample.label[index] == 1)
        assert abs(present["test"] / present.total() - PADCHEST.split.test) < 0.06


def test_shards_of_the_first_rows_are_valid(published_tables, tmp_path):
    first = pd.read_csv(published_tables / PADCHEST.table, dtype=str, keep_default_na=False, nrows=400)
    root = tmp_path / "source"
    (root / "images").mkdir(parents=True)
    first.to_csv(root / PADCHEST.table, index=False)
    for number, name in enumerate(first["ImageID"]):
        write_image(root / "images" / name, seed=number)
    classes = {name: PADCHEST.labels.classes[name] for name in ("Normal", "Cardiomegaly")}
    labels = dataclasses.replace(PADCHEST.labels, classes=classes, drop=())
    manifest = write_shards(dataclasses.replace(PADCHEST, labels=labels), root, tmp_path / "shards", workers=0)
    assert verify(tmp_path / "shards") == []
    assert manifest.attributes == ("view", "sex", "age")
    assert sum(split.samples for split in manifest.splits.values()) + sum(manifest.left_out.values()) == 400
