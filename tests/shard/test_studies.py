"""Samples of several images: the contents of a study's sample, and the unchanged format of single-image samples."""

import dataclasses
import io
import json
import random
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from table_source import contents, make_source, table_recipe
from textured_images import texture

from cxr_dist.errors import UserError
from cxr_dist.format.image import ImageFile, encode_jpeg
from cxr_dist.format.index_checks import index_is_sound
from cxr_dist.format.manifest import Manifest, index_dtype, load_manifest, open_index
from cxr_dist.shard.projection import projection
from cxr_dist.shard.readers import check_recipe
from cxr_dist.shard.recipe import ImageFormat
from cxr_dist.shard.record import Record
from cxr_dist.shard.studies import in_view_order
from cxr_dist.shard.summary import print_summary
from cxr_dist.shard.verify import verify
from cxr_dist.shard.write import write_shards

IMAGES = 3  # of each patient


def study_recipe(**changes):
    columns = dataclasses.replace(table_recipe().columns, study="study")
    return table_recipe(**{"columns": columns, "samples": "study"} | changes)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """40 patients with two studies: one with a lateral and a frontal image, one with a single frontal image."""
    source = make_source(tmp_path / "source", films=IMAGES)
    table = pd.read_csv(source / "films.csv")
    table["view"] = ["LATERAL", "PA", "AP"] * 40
    table["study"] = [f"{row // IMAGES}-{row % IMAGES // 2}" for row in range(len(table))]
    table.to_csv(source / "films.csv", index=False)
    return source


def edit(source: Path, row: int, **cells: str) -> None:
    table = pd.read_csv(source / "films.csv")
    for column, value in cells.items():
        table.loc[row, column] = value
    table.to_csv(source / "films.csv", index=False)


def samples_of(out: Path, manifest: Manifest) -> list[dict]:
    urls = [str(out / shard.file) for split in manifest.splits.values() for shard in split.shards]
    return list(webdataset.WebDataset(urls, shardshuffle=False, nodesplitter=None, empty_check=False))


def sources_of(out: Path) -> dict[str, list[str]]:
    keys = pd.read_csv(out / "keys.csv")
    return keys.groupby("key")["source"].apply(list).to_dict()


def test_any_webdataset_reader_gets_the_images_of_a_study_with_its_report(source, tmp_path):
    out = tmp_path / "shards"
    manifest = write_shards(study_recipe(), source, out, workers=0)
    assert load_manifest(out) == manifest
    assert (manifest.views, manifest.unit, manifest.image["views"]) == (2, "studies", 2)
    samples, names = samples_of(out, manifest), sources_of(out)
    assert Counter(len(names[sample["__key__"]]) for sample in samples) == {2: 40, 1: 40}
    for sample in samples:
        numbers = {name: int(name.split("-")[2].removesuffix(".png")) for name in names[sample["__key__"]]}
        frontal, *lateral = sorted(numbers, key=numbers.get, reverse=True)
        expected = dict(zip(("jpg", "1.jpg"), (frontal, *lateral), strict=False))
        assert {kind for kind in sample if kind.endswith("jpg")} == set(expected)
        for kind, name in expected.items():
            assert sample[kind] == encode_jpeg(ImageFile(path=source / "images" / name).read(16), 92)
        content = json.loads(sample["json"])
        assert content["views"] == (["PA", "LATERAL"] if lateral else ["AP"])
        assert content["view"] == " + ".join(content["views"])
        assert content["text"] == {"notes": f"Report {int(frontal.split('-')[1])} says ü."}
    assert verify(out) == []


def test_the_index_locates_every_image_within_one_span(source, tmp_path):
    out = tmp_path / "shards"
    manifest = write_shards(study_recipe(), source, out, workers=0)
    for split in manifest.splits.values():
        for shard in split.shards:
            tar = (out / shard.file).read_bytes()
            for record in open_index(out, shard, 1, views=2):
                span = range(record["offset"], record["offset"] + record["size"])
                facts = json.loads(tar[record["json_offset"] :][: record["json_size"]])
                assert np.count_nonzero(record["jpg_size"]) == len(facts["views"])
                for offset, size in zip(record["jpg_offset"], record["jpg_size"], strict=True):
                    assert size == 0 or tar[offset:].startswith(b"\xff\xd8")
                    assert offset in span
                    assert offset + size in span


def test_an_index_is_refused_if_an_image_is_missing_before_another():
    index = np.zeros(3, index_dtype(1, views=3))
    index["key"], index["size"], index["json_size"] = b"a", 100, 10
    index["jpg_size"] = [[5, 0, 0], [5, 5, 0], [5, 5, 5]]
    assert index_is_sound(index, 100, num_groups=2)
    for sizes in ([0, 0, 0], [0, 5, 5], [5, 0, 5], [5, 5, -1], [5, 101, 0]):
        index["jpg_size"][1] = sizes
        assert not index_is_sound(index, 100, num_groups=2), sizes


def test_a_near_duplicate_of_a_second_image_is_found_in_another_split(tmp_path):
    source = make_source(tmp_path / "source", patients=20, films=2)
    for number, path in enumerate(sorted((source / "images").iterdir())):
        Image.fromarray(texture(number)).save(path)
    table = pd.read_csv(source / "films.csv")
    table["study"], table["view"] = table["mrn"], ["PA", "LATERAL"] * 20
    table.to_csv(source / "films.csv", index=False)
    recipe = study_recipe(image=ImageFormat(short_side=128))
    manifest = write_shards(recipe, source, tmp_path / "clean", workers=0)
    assert verify(tmp_path / "clean") == []
    names = sources_of(tmp_path / "clean")

    def lateral(split: str, sample: int) -> Path:
        index = open_index(tmp_path / "clean", manifest.splits[split].shards[0], 1, views=2)
        return source / "images" / max(names[index["key"][sample].decode()])

    shutil.copy(lateral("train", 5), lateral("test", 2))
    write_shards(recipe, source, tmp_path / "leak", workers=0)
    (problem,) = verify(tmp_path / "leak")
    assert problem.startswith("1 images of test are near-duplicates of images of train, first test-00000.tar sample 2 ")
    assert "and train-00000.tar sample 5:" in problem


def test_rows_in_another_order_and_more_workers_give_the_same_bytes(source, tmp_path):
    write_shards(study_recipe(), source, tmp_path / "a", workers=0)
    pd.read_csv(source / "films.csv").sample(frac=1, random_state=1).to_csv(source / "films.csv", index=False)
    write_shards(study_recipe(), source, tmp_path / "b", workers=2)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_images_beyond_max_views_are_left_out_and_counted(source, tmp_path):
    table = pd.read_csv(source / "films.csv")
    table["study"] = table["mrn"]
    table.to_csv(source / "films.csv", index=False)
    manifest = write_shards(study_recipe(), source, tmp_path / "two", workers=0)
    assert manifest.left_out == {"more films of a study than max_views": 40}
    views = {json.loads(s["json"])["view"] for s in samples_of(tmp_path / "two", manifest)}
    assert views == {"PA + LATERAL"}  # and not the two frontal images
    manifest = write_shards(study_recipe(max_views=3), source, tmp_path / "three", workers=0)
    assert manifest.left_out == {}
    views = {json.loads(s["json"])["view"] for s in samples_of(tmp_path / "three", manifest)}
    assert views == {"PA + LATERAL + AP"}
    assert verify(tmp_path / "three") == []


def test_an_unreadable_image_is_left_out_and_a_study_without_other_images_too(source, tmp_path):
    (source / "images" / "secret.film-0-1.png").write_bytes(b"no image")  # the frontal image of two
    (source / "images" / "secret.film-1-2.png").unlink()  # the only image of a study
    out = tmp_path / "shards"
    manifest = write_shards(study_recipe(), source, out, workers=0, allow_left_out=0.02)
    assert manifest.left_out == {"image not readable": 1, "image file missing": 1}
    assert sum(split.samples for split in manifest.splits.values()) == 79
    sources, samples = sources_of(out), samples_of(out, manifest)
    (lone,) = [s for s in samples if sources[s["__key__"]] == ["secret.film-0-0.png"]]
    assert json.loads(lone["json"])["views"] == ["LATERAL"]
    assert verify(out) == []
    with pytest.raises(UserError, match="at least 2 of 120 images failed"):
        write_shards(study_recipe(), source, tmp_path / "strict", workers=0)


def test_studies_with_contradictory_images_count_as_failures(source, tmp_path):
    edit(source, 0, label="well")
    edit(source, 4, notes="Another report.")
    manifest = write_shards(study_recipe(), source, tmp_path / "shards", workers=0, allow_left_out=0.1)
    assert manifest.left_out == {"films of one study with different labels or reports": 4}
    assert sum(split.samples for split in manifest.splits.values()) == 78


def test_two_patients_with_the_same_study_id_are_two_samples(source, tmp_path):
    table = pd.read_csv(source / "films.csv")
    table["study"] = "1"
    table.to_csv(source / "films.csv", index=False)
    manifest = write_shards(study_recipe(max_views=3), source, tmp_path / "shards", workers=0)
    assert sum(split.samples for split in manifest.splits.values()) == 40


def test_views_are_selected_before_images_are_grouped_by_study(source, tmp_path):
    manifest = write_shards(study_recipe(views="frontal"), source, tmp_path / "shards", workers=0)
    assert manifest.left_out == {"not of the recipe's views": 40}
    assert all("1.jpg" not in sample for sample in samples_of(tmp_path / "shards", manifest))


def test_single_image_samples_keep_the_format_from_before_studies(source, tmp_path):
    manifest = write_shards(table_recipe(), source, tmp_path / "shards", workers=0)
    plain = json.loads((tmp_path / "shards" / "manifest.json").read_text())
    assert not {"views", "samples", "max_views"} & set(plain["recipe"])
    assert set(plain["image"]) == {"short_side", "quality"}
    assert (manifest.views, manifest.unit) == (1, "images")
    fields = [
        ("key", "S32"), ("study", "S16"), ("patient", "S16"), ("group", "<i2"), ("label", "<i2", (3,)),
        ("offset", "<i8"), ("size", "<i4"), ("crc32", "<u4"), ("jpg_offset", "<i8"), ("jpg_size", "<i4"),
        ("json_offset", "<i8"), ("json_size", "<i4"),
    ]  # fmt: skip
    assert index_dtype(3) == np.dtype(fields)
    assert all(set(json.loads(s["json"])) == {"label", "study", "patient", "view", "sex", "age", "text"}
               for s in samples_of(tmp_path / "shards", manifest))  # fmt: skip


VIEWS = st.lists(st.sampled_from(["PA", "AP", "LATERAL", "LL", "LAO", ""]), min_size=1, max_size=7)


@given(VIEWS, st.randoms())
def test_the_order_of_images_alternates_projections_and_ignores_the_order_of_rows(views: list[str], rng: random.Random):
    records = [
        Record(source_id=f"{i}", image_id=f"{i}", study="s", patient="p", view=view, values=(), text={}, pixels=None)
        for i, view in enumerate(views)
    ]  # fmt: skip
    ordered = in_view_order(records)
    assert sorted(ordered, key=records.index) == records
    kinds = [projection(record.view) for record in ordered]
    turns = [(kinds[:place].count(kind), ("frontal", "lateral", "").index(kind)) for place, kind in enumerate(kinds)]
    assert turns == sorted(turns)
    assert in_view_order(rng.sample(records, len(records))) == ordered


def test_the_closing_table_counts_studies(source, tmp_path):
    manifest = write_shards(study_recipe(), source, tmp_path / "shards", workers=0)
    console = Console(file=io.StringIO(), width=100)
    print_summary(manifest, console)
    (line,) = [line for line in console.file.getvalue().splitlines() if line.startswith("│ studies ")]
    assert line.split()[1::2][1:] == [str(manifest.splits[name].samples) for name in ("train", "val", "test")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": dataclasses.replace(table_recipe().split, by="image")}, "use split.by study or patient"),
        ({"columns": table_recipe().columns}, r"samples: study needs columns\.study"),
        ({"max_views": 1}, "max_views is 1; expected 2 to 8"),
        ({"max_views": 9}, "max_views is 9; expected 2 to 8"),
    ],
)
def test_a_recipe_that_cannot_group_by_study_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        check_recipe(study_recipe(**changes))
