"""Sex and age are parsed from the usual spellings, and stored in samples and manifest."""

import csv
import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from table_source import make_source, source_names, table_recipe, write_rows

from cxr_dist.errors import UserError
from cxr_dist.format.manifest import Manifest, load_manifest, open_index
from cxr_dist.shard.person import age_between, age_of, sex_of
from cxr_dist.shard.phantom.study import draw_study
from cxr_dist.shard.phantom.wording import write_report
from cxr_dist.shard.recipe import load_recipe
from cxr_dist.shard.write import write_shards

COVID = Path(__file__).resolve().parents[2] / "shards" / "covid_cxr.yaml"


def contents(folder: Path, manifest: Manifest) -> dict[str, dict[str, Any]]:
    """Key -> JSON of the sample."""
    samples = {}
    for shard in (shard for split in manifest.splits.values() for shard in split.shards):
        tar = (folder / shard.file).read_bytes()
        for record in open_index(folder, shard, manifest.num_labels):
            samples[record["key"].decode()] = json.loads(tar[record["json_offset"] :][: record["json_size"]])
    return samples


@pytest.mark.parametrize("sex", ["F", "M"])
def test_the_usual_spellings_of_sex_are_recognised(sex):
    words = {"F": ["f", "F", "female", "Female", " FEMALE "], "M": ["m", "M", "male", "Male", "MALE"]}[sex]
    assert [sex_of(word) for word in words] == [sex] * len(words)


@given(st.text(max_size=8))
def test_any_other_text_is_an_unknown_sex(text):
    assert sex_of(text) in ("F", "M", "")
    assert sex_of(text + "?") == ""


@pytest.mark.parametrize(
    ("text", "years"),
    [
        ("52", 52), ("052Y", 52), ("52.5", 52.5), ("52.0", 52), ("0", 0), ("018M", 1.5), ("006W", 0.11), ("003D", 0.01),
        ("90+", 90), (" 64 years ", 64), ("", None), ("?", None), ("nan", None), ("inf", None), ("-3", None),
        ("999", None), ("20-30", None), ("F", None),
    ],
)  # fmt: skip
def test_ages_are_parsed_into_years(text, years):
    assert age_of(text) == years


@given(st.floats(0, 125))
def test_an_age_is_kept_to_a_hundredth_of_a_year(years):
    assert age_of(f"{years:.6f}") == pytest.approx(years, abs=0.006)


@given(st.integers(0, 125))
def test_whole_years_are_stored_as_integers(years):
    assert [json.dumps(age_of(text)) for text in (str(years), f"{years:03d}Y")] == [str(years)] * 2


def with_columns(source: Path, sexes: list[str], ages: list[str]) -> None:
    """Add two columns to the table of `make_source`, which repeat these values."""
    header, *rows = list(csv.reader((source / "films.csv").open(encoding="utf-8")))
    more = [[*row, sexes[i % len(sexes)], ages[i % len(ages)]] for i, row in enumerate(rows)]
    write_rows(source / "films.csv", [*header, "gender", "years"], more)


def recipe_with_columns():
    recipe = table_recipe()
    return dataclasses.replace(recipe, columns=dataclasses.replace(recipe.columns, sex="gender", age="years"))


@pytest.mark.parametrize(
    ("birth", "study", "years"),
    [
        ("1930.0", "20140915", 84),
        (" 1930-05-17", "2014", 84),
        ("2014", "2014", 0),
        ("2015", "2014", None),
        ("1800", "2014", None),
        ("", "2014", None),
        ("1930", "nan", None),
        ("30", "2014", None),
    ],
)
def test_an_age_between_two_years_is_whole_or_unknown(birth, study, years):
    assert age_between(birth, study) == years


def test_samples_and_manifest_contain_sex_and_age(tmp_path):
    source = make_source(tmp_path / "source")
    with_columns(source, ["female", "M", "", "O"], ["052Y", "", "7.25"])
    manifest = write_shards(recipe_with_columns(), source, tmp_path / "shards", workers=0)
    assert manifest.attributes == load_manifest(tmp_path / "shards").attributes == ("view", "sex", "age")
    names = source_names(tmp_path / "shards")
    rows = {row["file"]: row for row in csv.DictReader((source / "films.csv").open(encoding="utf-8"))}
    for key, content in contents(tmp_path / "shards", manifest).items():
        row = rows[names[key]]
        assert content["sex"] == {"female": "F", "M": "M", "": "", "O": ""}[row["gender"]]
        assert content["age"] == {"052Y": 52, "": None, "7.25": 7.25}[row["years"]]


def test_sex_and_age_are_unknown_without_columns(tmp_path):
    source = make_source(tmp_path / "source")
    manifest = write_shards(table_recipe(), source, tmp_path / "shards", workers=0)
    assert manifest.attributes == ("view",)
    samples = contents(tmp_path / "shards", manifest).values()
    assert {(content["sex"], content["age"]) for content in samples} == {("", None)}


@pytest.mark.parametrize(
    ("sexes", "ages", "message"),
    [
        (["1", "2"], ["40"], "columns.sex names 'gender', and none of its 80 values is one of: F, M, female or male"),
        (["F"], ["old", ""], "columns.age names 'years', and none of its 40 values is one of: years, or DICOM's 052Y"),
    ],
)  # fmt: skip
def test_a_column_of_which_no_value_can_be_parsed_is_refused(tmp_path, sexes, ages, message):
    source = make_source(tmp_path / "source")
    with_columns(source, sexes, ages)
    with pytest.raises(UserError, match=message):
        write_shards(recipe_with_columns(), source, tmp_path / "shards", workers=0)


def test_changed_ages_make_another_source(tmp_path):
    source = make_source(tmp_path / "source")
    with_columns(source, ["F"], ["40"])
    write_shards(recipe_with_columns(), source, tmp_path / "shards", workers=0)
    table = source / "films.csv"
    table.write_text(table.read_text(encoding="utf-8").replace(",40\n", ",41\n", 1), encoding="utf-8")
    with pytest.raises(UserError, match="made from other rows"):
        write_shards(recipe_with_columns(), source, tmp_path / "shards", workers=0)


def test_a_synthetic_patient_has_one_sex_and_age_and_the_report_agrees():
    studies = [draw_study(0, number) for number in range(500)]
    assert 0.4 < Counter(study.sex for study in studies)["F"] / 500 < 0.6
    assert {study.age for study in studies} >= set(range(25, 85))
    for first, second in zip(studies[3::5], studies[4::5], strict=True):
        assert (first.sex, first.age) == (second.sex, second.age)
    mentioned = 0
    for study in studies:
        indication = write_report(study, 0)["indication"]
        if "year" in indication and str(study.age) in indication:
            mentioned += 1
            assert {"F": "female", "M": " male"}[study.sex] in f" {indication.lower()}"
    assert mentioned > 250


def test_shards_of_the_demo_contain_sex_and_age(tiny_shards):
    manifest = load_manifest(tiny_shards)
    assert manifest.attributes == ("view", "sex", "age")
    samples = contents(tiny_shards, manifest).values()
    assert {content["sex"] for content in samples} == {"F", "M"}
    assert all(19 <= content["age"] <= 90 for content in samples)


@pytest.mark.shared
def test_real_rows_keep_their_sex_and_age(real_data, tmp_path):
    recipe = load_recipe(COVID)
    recipe = dataclasses.replace(recipe, image=dataclasses.replace(recipe.image, short_side=16))
    manifest = write_shards(recipe, real_data / "covid-cxr", tmp_path / "shards", workers=0)
    with (real_data / "covid-cxr" / "metadata.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["finding"] != "todo"]
    samples = contents(tmp_path / "shards", manifest).values()
    assert Counter(content["sex"] for content in samples) == Counter(row["sex"] for row in rows)
    ages = Counter(float(row["age"]) if row["age"] else None for row in rows)
    assert Counter(content["age"] for content in samples) == ages
