"""Boxes are stored with their samples, rows that give none are counted, and a recipe that cannot fit is refused."""

import contextlib
import csv
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from made_boxes import BOX_RECIPE, HEADER, write_box_source
from made_shards import replaced
from PIL import Image
from table_source import source_names

from cxr_dist.config.data import DataConfig
from cxr_dist.data.place import open_store
from cxr_dist.errors import UserError
from cxr_dist.format.image import ImageFile
from cxr_dist.format.manifest import SPLITS, load_manifest
from cxr_dist.format.stored_boxes import boxes_of
from cxr_dist.format.stored_sample import DamagedSample
from cxr_dist.shard.deal import plan_shards
from cxr_dist.shard.readers import read_source
from cxr_dist.shard.recipe import load_recipe
from cxr_dist.shard.tar import write_shard
from cxr_dist.shard.verify import verify
from cxr_dist.shard.write import write_shards


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_box_source(tmp_path / "source")


def shard(source: Path, out: Path, *changes: str, more: str = "") -> Any:
    """Write shards by BOX_RECIPE and `more`, changed."""
    text = replaced(BOX_RECIPE + more, *changes)
    return write_shards(load_recipe(written(source.parent, text)), source, out, workers=0)


def samples_of(shards: Path) -> dict[str, dict[str, Any]]:
    """Key -> members of each sample, with decoded JSON."""
    manifest, found = load_manifest(shards), {}
    for split in SPLITS:
        with contextlib.closing(open_store(DataConfig(shards=str(shards)), manifest, split)) as store:
            for number, entry in enumerate(store.shards):
                for row in range(entry.samples):
                    sample = store.read(number, row)
                    found[sample["__key__"]] = sample | {"facts": json.loads(sample["json"])}
    return found


def drawn_boxes(source: Path) -> dict[str, list[tuple[str, list[float]]]]:
    found: dict[str, list[tuple[str, list[float]]]] = {}
    for name, label, *box in csv.reader((source / "BBox_List.csv").read_text().splitlines()[1:]):
        found.setdefault(name, []).append((label, list(map(float, box))))
    return found


def test_each_box_surrounds_its_square_in_the_stored_image(source, tmp_path):
    """Images of 60 to 90 pixels are stored with a short side of 40, so boxes move with the image."""
    manifest = shard(source, tmp_path / "shards")
    drawn, names, seen = drawn_boxes(source), source_names(tmp_path / "shards"), Counter()
    for key, sample in samples_of(tmp_path / "shards").items():
        boxes = boxes_of(sample["facts"], 2, 1)
        assert len(boxes) == len(drawn.get(names[key], []))
        pixels = cv2.imdecode(np.frombuffer(sample["jpg"], np.uint8), cv2.IMREAD_GRAYSCALE)
        assert min(pixels.shape) == 40
        for box in boxes:
            seen[manifest.classes[box.class_index]] += 1
            left, top, right, bottom = np.array(box.box) * [*pixels.shape[::-1], *pixels.shape[::-1]]
            inside = pixels[round(top) + 1 : round(bottom) - 1, round(left) + 1 : round(right) - 1].astype(int)
            if len(boxes) == 1:  # two squares may overlap
                marked = (pixels > 200) if box.class_index == 0 else (pixels < 50)
                assert (inside > 200).all() if box.class_index == 0 else (inside < 50).all()
                assert marked.sum() <= 1.15 * (right - left) * (bottom - top)
    assert seen == {"Mass": 24, "Cyst": 16}
    assert manifest.boxes["left_out"] == {}
    assert sum((Counter(counts) for counts in manifest.boxes["stored"].values()), Counter()) == seen
    assert verify(tmp_path / "shards", near_duplicates=False) == []


def test_shards_without_boxes_keep_their_bytes(source, tmp_path):
    shard(source, tmp_path / "with")
    shard(source, tmp_path / "without", "boxes: {table: BBox_List.csv, classes: {Cyst: Cystic}}\n", "")
    plain = json.loads((tmp_path / "without" / "manifest.json").read_text())
    assert "boxes" not in plain
    assert "boxes" not in plain["recipe"]
    boxed, bare = samples_of(tmp_path / "with"), samples_of(tmp_path / "without")
    for key, sample in bare.items():
        assert "boxes" not in sample["facts"]
        assert sample["jpg"] == boxed[key]["jpg"]
        if "boxes" not in boxed[key]["facts"]:
            assert sample["json"] == boxed[key]["json"]


def test_boxes_in_pixels_of_larger_images_give_the_same_shares(tmp_path):
    """As in the subset of NIH ChestX-ray14 whose images were halved: all images have one size, and boxes another."""
    found = []
    for name, scale, change in (("own", 1, "{table: "), ("scaled", 16, "{size: [1024, 1024], table: ")):
        source = write_box_source(tmp_path / name / "source", scale=scale)
        for path in (source / "images").iterdir():
            if path.name != "secret005.png":  # of 64 x 64 pixels
                path.unlink()
        shard_of_one = [line for line in (source / "BBox_List.csv").read_text().splitlines() if "secret005" in line]
        (source / "BBox_List.csv").write_text(HEADER + "\n".join(shard_of_one))
        recipe = load_recipe(written(tmp_path / name, BOX_RECIPE.replace("{table: ", change)))
        records = read_source(recipe, source).records
        found.append([box for record in records for box in record.boxes])
    assert found[0] == found[1]
    assert [box.label for box in found[0]] == ["Mass"]


def written(folder: Path, recipe: str) -> Path:
    (folder / "recipe.yaml").write_text(recipe)
    return folder / "recipe.yaml"


def test_a_study_stores_the_image_of_each_box(source, tmp_path):
    """The first image of a study cannot be read, so its second one becomes its first."""
    (source / "images" / "secret000.png").write_bytes(b"not an image")
    text = BOX_RECIPE.replace("patient: Patient ID", "patient: Patient ID, study: Patient ID") + "samples: study\n"
    recipe = load_recipe(written(tmp_path, text))
    manifest = write_shards(recipe, source, tmp_path / "shards", workers=0, allow_left_out=0.1)
    drawn, names = drawn_boxes(source), dict[str, list[str]]()
    with (tmp_path / "shards" / "keys.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            names.setdefault(row["key"], []).append(row["source"])
    samples = samples_of(tmp_path / "shards")
    assert len(samples) == 24
    for key, sample in samples.items():
        expected = {view: len(drawn[name]) for view, name in enumerate(sorted(names[key])) if name in drawn}
        assert Counter(box.view for box in boxes_of(sample["facts"], 2, 2)) == expected
    assert manifest.boxes["left_out"] == {
        "box on an image that is missing or not readable": len(drawn["secret000.png"])
    }


def test_every_row_without_a_box_is_counted(source, tmp_path):
    rows = [
        "secret000.png,Nodule,1,1,5,5",
        "absent.png,Mass,1,1,5,5",
        "secret000.png,Mass,1,1,-5,5",
        "secret000.png,Mass,1,1,5,0",
        "secret000.png,Mass,one,1,5,5",
        "secret000.png,Mass,nan,1,5,5",
        "secret000.png,Mass,,,,",
        "secret000.png,Mass,80,1,20,5",
        "secret000.png,Mass,-300,1,20,5",
    ]
    with (source / "BBox_List.csv").open("a") as file:
        file.write("\n".join(rows))
    manifest = shard(source, tmp_path / "shards")
    assert manifest.boxes["left_out"] == {
        "box of a label that is no class": 1,
        "box on an image that the source does not have": 1,
        "box that reaches out of its image": 2,
        "box without four numbers, or without a positive width and height": 5,
    }
    assert sum(sum(counts.values()) for counts in manifest.boxes["stored"].values()) == 40
    some = "columns: {", "where: {Finding Labels: [Mass, Cyst, No Finding]}\ncolumns: {"  # and not Mass|Cyst
    selected = shard(source, tmp_path / "selected", *some)
    lost = selected.boxes["left_out"]["box on an image that was left out"]
    assert lost == 40 - sum(sum(counts.values()) for counts in selected.boxes["stored"].values()) > 0


def test_a_box_that_reaches_a_little_over_the_border_is_cut_there(source, tmp_path):
    with (source / "BBox_List.csv").open("a") as file:
        file.write("secret003.png,Mass,-0.5,0,10.5,60.4\n")
    shard(source, tmp_path / "shards")
    key = next(key for key, name in source_names(tmp_path / "shards").items() if name == "secret003.png")
    assert samples_of(tmp_path / "shards")[key]["facts"]["boxes"][-1]["box"] == [0.0, 0.0, round(10 / 90, 6), 1.0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("BBox_List", "Boxes"), r"no Boxes\.csv in .*: the recipe's boxes\.table is relative to --source"),
        (("{table:", "{image: Image, table:"), "boxes.image names the column 'Image'; BBox_List.csv has: Image Index"),
        (("{table:", "{image: Finding Label, table:"), "none of the 40 boxes .* is on an image .*boxes.image"),
        (("{table:", "{box: [Finding Label, y, w, 'h]'], table:"), "none of the 40 rows .* four numbers .*boxes.box"),
        (("{table:", "{box: [x, y, w], table:"), "boxes.box is a list of 3; expected a list of 4"),
        (("{table:", "{size: [20, 20], table:"), r"of 40 boxes .* reach out of 20 x 20 pixels \(boxes\.size\)"),
        (("{table:", "{size: [0, 20], table:"), "boxes.size is .* expected two positive numbers"),
        (("{Cyst: Cystic}", "{Cyst: Cystoid}"), "boxes.classes.Cyst names the finding 'Cystoid', which no box has"),
        (("{Cyst: Cystic}", "{Cysts: Cystic}"), r"boxes.classes names the class 'Cysts' \(did you mean 'Cyst'\?\)"),
        (("{table:", "{label: Image Index, table:", ", classes: {Cyst: Cystic}", ""), "has a finding that is a class"),
    ],
)
def test_a_recipe_that_does_not_fit_the_table_of_boxes_is_refused(source, tmp_path, changes, message):
    with pytest.raises(UserError, match=message) as error:
        shard(source, tmp_path / "shards", *changes)
    assert "secret" not in str(error.value)


def test_a_changed_box_is_another_source(source, tmp_path):
    before = shard(source, tmp_path / "shards").source_sha256
    assert shard(source, tmp_path / "shards").source_sha256 == before  # the same command again keeps the folder
    table = source / "BBox_List.csv"
    table.write_text(table.read_text().replace("Mass", "Cystic", 1))
    with pytest.raises(UserError, match="another"):
        shard(source, tmp_path / "shards")
    assert shard(source, tmp_path / "other").source_sha256 != before


def test_the_size_of_a_turned_photograph_is_that_of_the_image_as_it_is_shown(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (30, 20)).save(tmp_path / "turned.jpg", exif=exif)
    Image.new("L", (30, 20)).save(tmp_path / "plain.png")
    assert ImageFile(path=tmp_path / "turned.jpg").size() == (20, 30)
    assert ImageFile(path=tmp_path / "turned.jpg").read(64).shape == (30, 20)
    assert ImageFile(path=tmp_path / "plain.png").size() == (30, 20)
    assert ImageFile(path=tmp_path / "absent.png").size() is None


@pytest.mark.parametrize(
    "box",
    [
        {"class": 2, "box": [0, 0, 1, 1]},
        {"class": 0, "view": 1, "box": [0, 0, 1, 1]},
        {"class": 0, "box": [0, 0, 0, 1]},
        {"class": 0, "box": [0, 0, 1]},
        {"class": 0, "box": [0, 0, 1, 2]},
        {"box": [0, 0, 1, 1]},
        7,
    ],
)
def test_boxes_that_a_shard_cannot_have_are_refused(box):
    with pytest.raises(DamagedSample, match="has boxes that its shards cannot have"):
        boxes_of({"boxes": [box]}, 2, 1)


def test_verify_finds_a_sample_with_a_box_of_an_unknown_class(source, tmp_path):
    """The shard was written by something else, but all of its checksums are right."""
    manifest = shard(source, tmp_path / "shards")
    (planned,) = [
        each
        for each in plan_shards(load_recipe(source.parent / "recipe.yaml"), source).shards
        if each.stem == "test-00000"
    ]
    jpegs = {key: sample["jpg"] for key, sample in samples_of(tmp_path / "shards").items()}
    samples = list(planned.samples)
    samples[4] = replace(samples[4], images=(replace(samples[4].images[0], boxes=((2, (0.1, 0.1, 0.2, 0.2)),)),))
    entry = write_shard(tmp_path / "shards", planned.stem, [(each, [jpegs[each.key]]) for each in samples], 2, True)
    test = replace(manifest.splits["test"], shards=(entry, *manifest.splits["test"].shards[1:]))
    changed = replace(manifest, splits=manifest.splits | {"test": test})
    (tmp_path / "shards" / "manifest.json").write_text(changed.to_json())
    assert verify(tmp_path / "shards", near_duplicates=False) == [
        f"test-00000.tar: 1 of {len(samples)} samples, first sample 4, has boxes that its shards cannot have"
    ]
