"""The CheXpert recipe on the published train.csv: ids from paths, label counts as in pandas, shards of some rows."""

import dataclasses
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from table_source import write_image

from cxr_dist.errors import UserError
from cxr_dist.shard.columns import PartOf
from cxr_dist.shard.readers import read_source
from cxr_dist.shard.recipe import Recipe, load_recipe
from cxr_dist.shard.record import Source
from cxr_dist.shard.select import Selection, select
from cxr_dist.shard.verify import verify
from cxr_dist.shard.write import write_shards

CHEXPERT = load_recipe(Path(__file__).resolve().parents[2] / "shards" / "chexpert.yaml")


@pytest.fixture(scope="module")
def table(published_tables: Path) -> pd.DataFrame:
    return pd.read_csv(published_tables / "chexpert_train.csv.gz")


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return dataclasses.replace(CHEXPERT, table="chexpert_train.csv.gz")


@pytest.fixture(scope="module")
def source(published_tables: Path, recipe: Recipe) -> Source:
    return read_source(recipe, published_tables)


@pytest.fixture(scope="module")
def selection(recipe: Recipe, source: Source) -> Selection:
    return select(recipe, source)


def test_patient_and_study_ids_come_from_the_path(source, table):
    assert len(source.records) == len(table) == 223_414
    last = source.records[-1]
    assert last.image_id == table["Path"].iloc[-1]
    assert last.study.split("/")[0] == last.patient
    ids = table["Path"].str.extract(r"(?P<patient>patient\d+)/(?P<study>study\d+)")
    assert [record.patient for record in source.records] == ids["patient"].tolist()
    assert len({record.study for record in source.records}) == len(ids.drop_duplicates())


def test_sex_age_and_view_are_those_of_the_table(source, table):
    assert Counter(record.sex for record in source.records) == {"M": 132_636, "F": 90_777, "": 1}
    assert [record.age for record in source.records] == table["Age"].tolist()
    assert Counter(record.view for record in source.records) == Counter(table["AP/PA"].fillna(""))


def test_label_counts_equal_those_of_pandas(selection, table):
    frontal = table[table["Frontal/Lateral"] == "Frontal"]
    labels = frontal[list(CHEXPERT.columns.labels)]
    labelled = labels[labels.notna().any(axis=1)]
    assert len(selection.samples) == len(labelled)
    assert selection.left_out == {
        "not selected by the recipe's where": len(table) - len(frontal),
        "no label": len(labels) - len(labelled),
    }
    for index, name in enumerate(selection.classes):
        counts = Counter(sample.label[index] for sample in selection.samples)
        expected = labelled[name].fillna(0).replace(-1, -2).value_counts()
        assert counts == Counter({1: expected.get(1, 0), 0: expected.get(0, 0), -1: expected.get(-2, 0)}), name


def test_no_patient_is_in_two_splits_and_the_shares_are_met(selection):
    split_of: dict[str, set[str]] = {}
    for sample in selection.samples:
        split_of.setdefault(sample.patient, set()).add(sample.split)
    assert all(len(splits) == 1 for splits in split_of.values())
    shares = Counter(sample.split for sample in selection.samples)
    assert abs(shares["train"] / len(selection.samples) - CHEXPERT.split.train) < 0.002


def test_shards_of_the_first_rows_are_valid(table, tmp_path):
    first = table.iloc[:400]
    root = tmp_path / "source"
    (root / "CheXpert-v1.0").mkdir(parents=True)
    first.to_csv(root / "CheXpert-v1.0" / "train.csv", index=False)
    for number, path in enumerate(first["Path"]):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        write_image(root / path, seed=number)
    manifest = write_shards(CHEXPERT, root, tmp_path / "shards", workers=0)
    assert verify(tmp_path / "shards") == []
    assert manifest.attributes == ("view", "sex", "age")
    assert sum(split.samples for split in manifest.splits.values()) == sum(first["Frontal/Lateral"] == "Frontal")


def test_a_path_without_a_patient_is_left_out_and_an_invalid_pattern_is_refused(tmp_path):
    header = "Path,Frontal/Lateral,AP/PA,Sex,Age," + ",".join(CHEXPERT.columns.labels)
    rows = [f"{path},Frontal,PA,Male,50,1{',' * 13}" for path in ("train/patient1/study1/v.jpg", "train/v.jpg")]
    (tmp_path / "CheXpert-v1.0").mkdir()
    (tmp_path / "CheXpert-v1.0" / "train.csv").write_text("\n".join([header, *rows]))
    selection = select(CHEXPERT, read_source(CHEXPERT, tmp_path))
    assert (len(selection.samples), selection.left_out) == (1, {"no patient or study id": 1})
    with pytest.raises(UserError, match=r"pattern 'patient\(' is not a regular expression"):
        PartOf(column="Path", pattern="patient(")
