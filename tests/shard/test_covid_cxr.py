"""The recipe for the public covid-chestxray-dataset, on some of its images and on rows as in later versions."""

import csv
import dataclasses
import json
from pathlib import Path

import pytest
from table_source import write_image, write_rows

from cxr_dist.format.manifest import open_index
from cxr_dist.shard.recipe import load_recipe
from cxr_dist.shard.verify import verify
from cxr_dist.shard.write import write_shards

COVID = Path(__file__).resolve().parents[2] / "shards" / "covid_cxr.yaml"


@pytest.mark.shared
def test_real_images_become_valid_shards_and_all_excluded_rows_are_counted(real_data, tmp_path):
    recipe = load_recipe(COVID)
    recipe = dataclasses.replace(recipe, image=dataclasses.replace(recipe.image, short_side=64))
    manifest = write_shards(recipe, real_data / "covid-cxr", tmp_path / "shards", workers=2)
    with (real_data / "covid-cxr" / "metadata.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    todo = sum(row["finding"] == "todo" for row in rows)
    covid = sum("COVID-19" in row["finding"] for row in rows)
    assert manifest.left_out == {"label value dropped by the recipe": todo}
    assert sum(split.samples for split in manifest.splits.values()) == len(rows) - todo
    assert sum(split.label_counts["COVID-19"]["positive"] for split in manifest.splits.values()) == covid
    assert verify(tmp_path / "shards", near_duplicates=False) == []


@pytest.mark.shared
def test_samples_contain_the_notes_but_not_the_file_names(real_data, tmp_path):
    recipe = load_recipe(COVID)
    recipe = dataclasses.replace(recipe, image=dataclasses.replace(recipe.image, short_side=16))
    manifest = write_shards(recipe, real_data / "covid-cxr", tmp_path / "shards", workers=0)
    with (real_data / "covid-cxr" / "metadata.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["filename"]: row for row in csv.DictReader(file)}
    with (tmp_path / "shards" / "keys.csv").open(newline="", encoding="utf-8") as file:
        names = {row["key"]: row["source"].partition("#")[0] for row in csv.DictReader(file)}
    shard = manifest.splits["test"].shards[0]
    tar = (tmp_path / "shards" / shard.file).read_bytes()
    for record in open_index(tmp_path / "shards", shard, 1):
        row = rows[names[record["key"].decode()]]
        content = json.loads(tar[record["json_offset"] :][: record["json_size"]])
        assert content["text"]["notes"] == row["clinical_notes"].strip()
        assert content["label"] == (0 if "COVID-19" in row["finding"] else 1)
        assert row["filename"].encode() not in tar


def test_ct_rows_are_left_out_and_hierarchical_findings_are_mapped(tmp_path):
    header = [
        "patientid",
        "finding",
        "view",
        "sex",
        "age",
        "modality",
        "folder",
        "filename",
        "clinical_notes",
    ]
    rows = []
    for patient in range(40):
        finding = ("Pneumonia/Viral/COVID-19", "No Finding", "Pneumonia/Bacterial")[patient % 3]
        rows.append([str(patient), finding, "PA", "F", "61", "X-ray", "images", f"{patient}.png", ""])
        rows.append([str(patient), finding, "Axial", "M", "", "CT", "volumes", f"{patient}.nii.gz", ""])
    rows.append(["99", "todo", "PA", "", "", "X-ray", "images", "absent.png", ""])
    (tmp_path / "images").mkdir()
    write_rows(tmp_path / "metadata.csv", header, rows)
    for patient in range(40):
        write_image(tmp_path / "images" / f"{patient}.png", seed=patient)
    manifest = write_shards(load_recipe(COVID), tmp_path, tmp_path / "shards", workers=0)
    assert sum(split.label_counts["COVID-19"]["positive"] for split in manifest.splits.values()) == 14
    assert sum(split.samples for split in manifest.splits.values()) == 40
    assert manifest.left_out == {
        "not selected by the recipe's where": 40,
        "label value dropped by the recipe": 1,
    }
