"""The table reader: columns, several labels, inverted and shared images, and recipes that do not fit the table."""

import csv
import gzip
import io
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from table_source import make_source, source_names, table_recipe, write_rows

from cxr_dist.errors import UserError
from cxr_dist.format.manifest import open_index
from cxr_dist.shard.columns import PartOf, YearsBetween
from cxr_dist.shard.readers import read_source
from cxr_dist.shard.readers.source_paths import image_path
from cxr_dist.shard.recipe import Columns, ImageFormat, InvertedRows, Labels, Split
from cxr_dist.shard.verify import verify
from cxr_dist.shard.write import write_shards


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_source(tmp_path / "source")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "shards"


def test_patients_that_share_an_image_are_merged_and_keys_stay_unique(source, out):
    header, *rows = list(csv.reader((source / "films.csv").open()))
    twins = [[rows[2 * patient][0], f"TWIN{patient}", *rows[2 * patient][2:]] for patient in range(20)]
    write_rows(source / "films.csv", header, rows + twins)
    manifest = write_shards(table_recipe(), source, out, workers=0)
    assert sum(split.samples for split in manifest.splits.values()) == 100
    assert sum(split.patients for split in manifest.splits.values()) == 40
    assert len(source_names(out)) == 100
    split_of: dict[str, set[str]] = {}
    for name, split in manifest.splits.items():
        for shard in split.shards:
            for key in open_index(out, shard, 1)["key"]:
                split_of.setdefault(source_names(out)[key.decode()].partition("#")[0], set()).add(name)
    assert all(len(names) == 1 for names in split_of.values())


def test_unknown_values_of_multilabel_columns_are_stored_as_null(tmp_path, out):
    source = make_source(tmp_path / "many", patients=30, films=1)
    rows = [[f"secret.film-{i}-0.png", f"P{i}", str(i % 2), ["", "-1", "1"][i % 3]] for i in range(30)]
    write_rows(source / "films.csv", ["file", "mrn", "Edema", "Mass"], rows)
    recipe = table_recipe(
        columns=Columns(image="file", patient="mrn", labels=("Edema", "Mass")),
        labels=Labels(task="multilabel"),
    )
    manifest = write_shards(recipe, source, out, workers=0)
    assert (manifest.classes, manifest.num_labels, manifest.task) == (("Edema", "Mass"), 2, "multilabel")
    counts = Counter()
    for split in manifest.splits.values():
        for value, count in split.label_counts["Mass"].items():
            counts[value] += count
        assert sum(sum(shard.group_counts) for shard in split.shards) == split.samples
        for shard in split.shards:
            tar = (out / shard.file).read_bytes()
            for record in open_index(out, shard, 2):
                labels = json.loads(tar[record["json_offset"] :][: record["json_size"]])["labels"]
                assert [-1 if value is None else value for value in labels] == record["label"].tolist()
    assert counts == {"positive": 10, "negative": 0, "unknown": 20}
    assert verify(out) == []


def test_images_of_inverted_rows_are_inverted(source, out):
    rows = list(csv.reader((source / "films.csv").open()))
    rows = [rows[0] + ["kind"]] + [[*row, f"MONOCHROME{1 + i % 2}"] for i, row in enumerate(rows[1:])]
    write_rows(source / "films.csv", rows[0], rows[1:])
    rule = InvertedRows(column="kind", value="MONOCHROME1")
    recipe = table_recipe(image=ImageFormat(short_side=24, quality=100, monochrome1=rule))
    manifest = write_shards(recipe, source, out, workers=0)
    kinds = {row[0]: row[-1] for row in rows[1:]}
    shard = manifest.splits["val"].shards[0]
    tar = (out / shard.file).read_bytes()
    seen = set()
    for record in open_index(out, shard, 1):
        name = source_names(out)[record["key"].decode()]
        jpeg = tar[record["jpg_offset"] :][: record["jpg_size"]]
        stored = np.asarray(Image.open(io.BytesIO(jpeg))).astype(int)
        original = np.asarray(Image.open(source / "images" / name)).astype(int)
        expected = 255 - original if kinds[name] == "MONOCHROME1" else original
        assert np.abs(stored - expected).mean() < 3
        seen.add(kinds[name])
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"where": {"view": ("AP",)}}, r"none of 80 rows is left: check the recipe's where \(columns view\)"),
        ({"where": {"site": ("A",)}}, "where names the column 'site'; films.csv has: file, mrn, label, view, notes"),
        ({"columns": Columns(image="file", patient="mrn", label="finding")}, "label names the column 'finding'"),
        ({"images": "films"}, "no films in .*: the recipe's images is relative to --source"),
        ({"table": "nothing.csv"}, "no nothing.csv in .*: the recipe's table is relative to --source"),
        ({"labels": Labels(classes={"Sick": ("ill",), "Well": ("well",)})}, "Sick names the value 'ill', which"),
        ({"labels": Labels(classes={"Any": ("*",), "Sick": ("sick",), "Well": ("well",)})}, "'Any' is missing from"),
        ({"split": Split(train=0.98, val=0.01, test=0.01)}, "split val is empty: 80 images in all, split by patient"),
    ],
)  # fmt: skip
def test_a_recipe_that_does_not_fit_the_table_is_refused(source, out, changes, message):
    with pytest.raises(UserError, match=message):
        write_shards(table_recipe(**changes), source, out, workers=0)
    assert not out.exists()


def test_lists_of_labels_ids_in_paths_and_ages_from_two_years_are_parsed(tmp_path):
    cells = {
        "train/patient1/study2/a.png": ("['edema', ' mass']", "1930.0", "20140915", (("edema", "mass"), 84)),
        "train/patient1/study3/b.png": ("[\"it's mass\", '']", "", "20140915", (("it's mass",), None)),
        "train/unknown/c.png": ("nan", "1990", "1980", ((), None)),
    }
    rows = [[path, label, birth, study] for path, (label, birth, study, _) in cells.items()]
    write_rows(tmp_path / "films.csv", ["path", "findings", "birth", "date"], rows)
    (tmp_path / "images").mkdir()
    recipe = table_recipe(
        columns=Columns(
            image="path",
            patient=PartOf(column="path", pattern=r"patient\d+"),
            study=PartOf(column="path", pattern=r"patient\d+/study\d+"),
            age=YearsBetween(birth="birth", study="date"),
            label="findings",
        ),
        labels=Labels(task="multilabel", separator="list", classes={"Edema": ("edema",), "Mass": ("*mass",)}),
    )
    records = read_source(recipe, tmp_path).records
    assert [(record.values, record.age) for record in records] == [expected for *_, expected in cells.values()]
    assert [record.patient for record in records] == ["patient1", "patient1", ""]
    assert [record.study for record in records] == ["patient1/study2", "patient1/study3", ""]


def test_columns_of_years_that_cannot_be_parsed_are_refused(source):
    columns = Columns(image="file", patient="mrn", label="label", age=YearsBetween(birth="view", study="notes"))
    message = "columns.age names 'view' and 'notes', and none of its 80 values is one of: years"
    with pytest.raises(UserError, match=message):
        read_source(table_recipe(columns=columns), source)


def test_a_truncated_table_and_an_unknown_file_type_are_refused(source, out):
    (source / "films.csv.gz").write_bytes(gzip.compress((source / "films.csv").read_bytes())[:-400])
    with pytest.raises(UserError, match=r"films\.csv\.gz cannot be read as a table: expected a gzipped"):
        write_shards(table_recipe(table="films.csv.gz"), source, out, workers=0)
    (source / "films.csv").rename(source / "films.xlsx")
    with pytest.raises(UserError, match=r"films\.xlsx ends in \.xlsx; expected \.csv, \.csv\.gz, \.tsv, "):
        write_shards(table_recipe(table="films.xlsx"), source, out, workers=0)


def test_a_source_without_any_image_is_refused(source, out):
    for path in (source / "images").iterdir():
        path.rename(path.with_suffix(".jpeg"))
    with pytest.raises(UserError, match="no image found: none of 80 images exists; check --source"):
        write_shards(table_recipe(), source, out, workers=0)


@pytest.mark.parametrize("way_out", ["../{}", "a/../../{}", "/{}", "{source}-2/{}"])
def test_an_image_outside_of_the_folder_is_refused_and_not_named(source, out, way_out):
    header, *rows = list(csv.reader((source / "films.csv").open()))
    rows[4][0] = way_out.format("mrs-smith.png", source=source)
    write_rows(source / "films.csv", header, rows)
    message = r"'file' leads out of the recipe's images \(images\) in 1 rows of films\.csv, the first is row 5: set"
    with pytest.raises(UserError, match=message) as error:
        write_shards(table_recipe(), source, out, workers=0)
    assert "smith" not in str(error.value)
    rows[4][3] = "CT"  # `where` leaves this row out
    write_rows(source / "films.csv", header, rows)
    assert len(read_source(table_recipe(where={"view": ("PA",)}), source).records) == 80


def test_absolute_paths_relative_paths_and_links_of_the_user_are_allowed(source, tmp_path):
    images = (source / "images").rename(tmp_path / "another disk")
    (source / "images").symlink_to(images)
    header, *rows = list(csv.reader((source / "films.csv").open()))
    rows[0][0] = str(source / "images" / rows[0][0])
    rows[1][0] = f"x/../{rows[1][0]}"
    write_rows(source / "films.csv", header, rows)
    records = read_source(table_recipe(), source).records
    assert all(record.pixels.exists() for record in records)
    elsewhere = table_recipe(images="../another disk")
    rows[0][0] = str(images / rows[2][0])
    write_rows(source / "films.csv", header, rows)
    assert all(record.pixels.exists() for record in read_source(elsewhere, source).records)


@given(st.text("./ab", max_size=12))
def test_no_path_leads_out_of_the_folder_of_images(name):
    path = image_path(Path("/data/images"), name)
    leads_out = not f"{os.path.abspath(f'/data/images/{name}' if name[:1] != '/' else name)}/".startswith(
        "/data/images/"
    )
    assert (path is None) == leads_out
    assert path is None or ".." not in path.parts


def test_a_pattern_names_one_table_and_several_folders_of_images(source, out):
    """The published layout of NIH ChestX-ray14: images_001/images/, images_002/images/, ..., and one table."""
    plain = read_source(table_recipe(), source)
    for number, path in enumerate(sorted((source / "images").iterdir())):
        folder = source / f"images_{number % 3:03d}" / "images"
        folder.mkdir(parents=True, exist_ok=True)
        path.rename(folder / path.name)
    (source / "images").rmdir()
    recipe = table_recipe(table="fil*.csv", images="images*/**")
    read = read_source(recipe, source)
    assert [record.source_id for record in read.records] == [record.source_id for record in plain.records]
    assert all(record.pixels is not None and record.pixels.exists() for record in read.records)
    assert sum(split.samples for split in write_shards(recipe, source, out, workers=0).splits.values()) == 80
    (source / "images_002" / "images" / "secret.film-0-0.png").write_bytes(b"")
    with pytest.raises(UserError, match="an image of the same name is in two of the 6 folders") as error:
        read_source(recipe, source)
    assert "secret" not in str(error.value)
    with pytest.raises(UserError, match=r"no folder in .* fits scans_\*"):
        read_source(table_recipe(images="scans_*"), source)
    (source / "fil2.csv").write_text("")
    with pytest.raises(UserError, match=r"2 files in .* fit fil\*\.csv .* the recipe's table names"):
        read_source(recipe, source)


def test_a_missing_source_is_refused(tmp_path, out):
    with pytest.raises(UserError, match="reader table needs --source"):
        write_shards(table_recipe(), None, out, workers=0)
    with pytest.raises(UserError, match="is not a folder"):
        write_shards(table_recipe(), tmp_path / "nowhere", out, workers=0)


def test_an_undecodable_table_is_refused_and_not_shown(source, out):
    (source / "films.csv").write_bytes(b"file,mrn,label,view,notes\n\xff\xfePatient Smith\n")
    with pytest.raises(UserError, match=r"line 2 of films\.csv is not UTF-8") as error:
        write_shards(table_recipe(), source, out, workers=0)
    assert "Smith" not in str(error.value)


@pytest.mark.parametrize("kind", ["tsv", "tsv.gz", "csv.gz", "parquet"])
def test_all_file_types_give_the_same_shards_as_csv(source, tmp_path, kind):
    write_shards(table_recipe(), source, tmp_path / "csv", workers=0)
    frame = pd.read_csv(source / "films.csv", dtype=str)
    if kind == "parquet":
        frame.to_parquet(source / "films.parquet")
    else:
        frame.to_csv(source / f"films.{kind}", sep="," if kind == "csv.gz" else "\t", index=False)
    write_shards(table_recipe(table=f"films.{kind}"), source, tmp_path / kind, workers=0)
    for path in (tmp_path / kind).glob("*.tar"):
        assert path.read_bytes() == (tmp_path / "csv" / path.name).read_bytes()


def test_rows_with_more_or_fewer_cells_than_columns_are_refused_with_their_line(source, out):
    lines = (source / "films.csv").read_text().splitlines()
    for wrong in (lines[5] + ", and more", lines[5].rpartition(",")[0]):
        (source / "films.csv").write_text("\n".join([*lines[:5], wrong, *lines[6:]]))
        with pytest.raises(UserError, match=r"line 6 of films\.csv has [46] cells, but there are 5 columns"):
            write_shards(table_recipe(), source, out, workers=0)
    assert not out.exists()


def test_a_class_that_stands_twice_and_a_single_class_are_refused(source, out):
    with pytest.raises(UserError, match=r"columns\.labels names the column 'Edema' twice: each column is a class"):
        Columns(image="file", labels=("Edema", "Mass", "Edema"))
    with pytest.raises(UserError, match="the only class is 'sick'; at least two are needed"):
        write_shards(table_recipe(labels=Labels(drop=("well",))), source, out, workers=0)
    columns = Columns(image="file", patient="mrn", labels=("label",))
    with pytest.raises(UserError, match="the only class is 'label'; at least two are needed"):
        write_shards(table_recipe(columns=columns, labels=Labels(task="multilabel")), source, out, workers=0)


def test_the_named_index_of_a_parquet_file_can_be_the_image_and_lists_cannot_be_labels(source, out):
    frame = pd.read_csv(source / "films.csv", dtype=str)
    frame.set_index("file").to_parquet(source / "films.parquet")
    assert len(read_source(table_recipe(table="films.parquet"), source).records) == 80
    frame["label"] = [[value] for value in frame["label"]]
    frame.to_parquet(source / "films.parquet")
    with pytest.raises(UserError, match=r"column 'label' of films\.parquet holds list<"):
        write_shards(table_recipe(table="films.parquet"), source, out, workers=0)
