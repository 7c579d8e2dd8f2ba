"""The recipe for NIH ChestX-ray14: on the whole published tables, on real images, and in the layout of the mirrors."""

import csv
import gzip
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from table_source import source_names, write_image

from cxr_dist.format.manifest import SPLITS
from cxr_dist.shard.readers import read_source
from cxr_dist.shard.recipe import load_recipe
from cxr_dist.shard.select import select
from cxr_dist.shard.verify import verify
from cxr_dist.shard.write import write_shards

NIH = load_recipe(Path(__file__).resolve().parents[2] / "shards" / "nih_cxr14.yaml")
BOX_LABELS = {name: name for name in NIH.labels.classes} | {"Infiltration": "Infiltrate"}
FIRST_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)
"""The column names of Data_Entry_2017.csv, the first version of the table; the last column has none."""


def test_the_whole_tables_give_the_counts_of_pandas(published_tables, tmp_path):
    """Takes about 20 s, because the tables describe 112,120 images."""
    for name in ("Data_Entry_2017_v2020.csv", "BBox_List_2017.csv"):
        (tmp_path / name).write_bytes(gzip.decompress((published_tables / f"{name}.gz").read_bytes()))
    (tmp_path / "images").mkdir()
    source = read_source(NIH, tmp_path)
    selection = select(NIH, source)
    entries = pd.read_csv(tmp_path / "Data_Entry_2017_v2020.csv")
    assert len(source.records) == len(selection.samples) == len(entries) == 112_120
    for index, name in enumerate(selection.classes):
        expected = entries["Finding Labels"].str.split("|").map(lambda found, name=name: name in found).sum()
        assert sum(sample.label[index] for sample in selection.samples) == expected > 1400
    assert len({sample.patient for sample in selection.samples}) == entries["Patient ID"].nunique()
    assert Counter(record.view for record in source.records) == entries["View Position"].value_counts().to_dict()
    ages = entries["Patient Age"].where(entries["Patient Age"] <= 125)
    assert [record.age for record in source.records] == [None if age != age else age for age in ages]
    findings = pd.read_csv(tmp_path / "BBox_List_2017.csv", usecols=["Finding Label"])["Finding Label"].value_counts()
    boxes = Counter(selection.classes[box.class_index] for sample in selection.samples for box in sample.boxes)
    assert boxes == {name: findings[label] for name, label in BOX_LABELS.items()}
    assert selection.boxes.left_out == {"box of a label that is no class": findings["Mass"] + findings["Nodule"]}
    split_of: dict[str, set[str]] = {}
    for sample in selection.samples:
        split_of.setdefault(sample.patient, set()).add(sample.split)
    assert all(len(splits) == 1 for splits in split_of.values())


@pytest.mark.shared
def test_real_images_become_valid_shards_with_the_boxes_that_radiologists_drew(real_data, tmp_path):
    """Images of 512 x 512 pixels, and boxes in pixels of the published 1024 x 1024."""
    folder = real_data / "nih-cxr14"
    if not folder.is_dir():
        pytest.skip(f"no images of NIH ChestX-ray14: CXR_DIST_REAL_DATA has no folder {folder.name}")
    assert all(record.pixels.exists() for record in read_source(NIH, folder).records)
    root = tmp_path / "source"
    (root / "images").mkdir(parents=True)
    boxes = list(csv.reader((folder / "BBox_List_2017.csv").open(newline="")))[1:]
    boxed = {row[0] for row in boxes}
    entries = pd.read_csv(folder / "Data_Entry_2017_v2020.csv", dtype=str)
    with_boxes = entries["Image Index"].isin(boxed)
    entries = pd.concat([entries[with_boxes][:200], entries[~with_boxes][:100]])
    entries.to_csv(root / "Data_Entry_2017_v2020.csv", index=False)
    (root / "BBox_List_2017.csv").symlink_to(folder / "BBox_List_2017.csv")
    for name in entries["Image Index"]:
        (root / "images" / name).symlink_to(folder / "images" / name)
    manifest = write_shards(NIH, root, tmp_path / "shards", workers=2)
    assert verify(tmp_path / "shards", near_duplicates=False) == []
    assert manifest.attributes == ("view", "sex", "age")
    assert sum(split.samples for split in manifest.splits.values()) == 300
    here = Counter(row[1] for row in boxes if row[0] in set(entries["Image Index"]))
    for name, label in BOX_LABELS.items():
        assert sum(manifest.boxes["stored"][split][name] for split in SPLITS) == here[label] > 5
    assert manifest.boxes["left_out"] == {
        "box of a label that is no class": here["Mass"] + here["Nodule"],
        "box on an image that the source does not have": len(boxes) - here.total(),
    }


def test_the_first_version_of_the_table_and_twelve_folders_are_read(tmp_path):
    findings = [*NIH.labels.classes, "No Finding", "Mass|Effusion"]
    rows, boxes = [FIRST_HEADER], ["Image Index,Finding Label,Bbox [x,y,w,h],,,"]
    for number in range(120):
        name, folder = f"{number:08d}_000.png", tmp_path / f"images_{number % 12 + 1:03d}" / "images"
        folder.mkdir(parents=True, exist_ok=True)
        write_image(folder / name, seed=number)
        age = ("058Y", "413Y", "007M")[number % 3]
        rows.append(f"{name},{findings[number % 8]},0,{number // 2},{age},M,PA,2682,2749,0.143,0.143,")
        if number % 8 == 4:
            boxes.append(f"{name},Pneumonia,256.0,512.0,512.0,128.0")
        if number % 8 == 3:
            boxes.append(f"{name},Infiltrate,0,0,1024,1024")
    (tmp_path / "Data_Entry_2017.csv").write_text("\n".join(rows))
    (tmp_path / "BBox_List_2017.csv").write_text("\n".join(boxes))
    source = read_source(NIH, tmp_path)
    assert Counter(record.age for record in source.records) == {58: 40, None: 40, 0.58: 40}
    drawn = {(box.label, box.box) for record in source.records for box in record.boxes}
    assert drawn == {("Pneumonia", (0.25, 0.5, 0.75, 0.625)), ("Infiltrate", (0.0, 0.0, 1.0, 1.0))}
    manifest = write_shards(NIH, tmp_path, tmp_path / "shards", workers=0)
    assert manifest.left_out == {}
    assert len(source_names(tmp_path / "shards")) == 120
    stored = Counter[str]()
    for counts in manifest.boxes["stored"].values():
        stored.update(counts)
    assert +stored == {"Pneumonia": 15, "Infiltration": 15}
