"""A small data set in the layout of NIH ChestX-ray14, in which a square marks each finding and its box is known.

A Mass is a bright square and a Cyst a dark one. Images are upright, wide and square, and some squares are at their
margin, outside of the centre crop.
"""

import csv
from pathlib import Path

import cv2
import numpy as np

from cxr_dist.shard.recipe import load_recipe
from cxr_dist.shard.write import write_shards

HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"
BOX_RECIPE = """
reader: table
table: Data_Entry.csv
columns: {image: Image Index, patient: Patient ID, label: Finding Labels}
labels: {task: multilabel, separator: "|", classes: {Mass: Mass, Cyst: Cyst}}
boxes: {table: BBox_List.csv, classes: {Cyst: Cystic}}
split: {by: patient, train: 0.4, val: 0.2, test: 0.4, seed: 0}
image: {short_side: 40, quality: 95}
shard: {samples: 9}
"""
SHAPES = ((60, 90), (80, 60), (64, 64))  # height and width in pixels; a third of the images has each


def write_box_source(folder: Path, num_images: int = 48, scale: float = 1.0) -> Path:
    """Write Data_Entry.csv, BBox_List.csv and images/ to `folder`; boxes are in pixels of images `scale` times larger.

    Each patient has two images. Half of the images have a Mass, a third have a Cyst, and some have both.
    """
    (folder / "images").mkdir(parents=True)
    random = np.random.default_rng(0)
    boxes = [HEADER]
    with (folder / "Data_Entry.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["Image Index", "Finding Labels", "Patient ID"])
        for i in range(num_images):
            name, (height, width) = f"secret{i:03d}.png", SHAPES[i % 3]
            pixels = random.integers(90, 130, (height, width)).astype(np.uint8)
            found = [finding for finding, every in (("Mass", 2), ("Cyst", 3)) if i // 3 % every == 0]
            for finding in found:
                side = int(random.integers(12, 20))
                x, y = int(random.integers(0, width - side)), int(random.integers(0, height - side))
                pixels[y : y + side, x : x + side] = 240 if finding == "Mass" else 10
                label = {"Mass": "Mass", "Cyst": "Cystic"}[finding]
                boxes.append(f"{name},{label},{','.join(str(scale * value) for value in (x, y, side, side))}\n")
            cv2.imwrite(str(folder / "images" / name), pixels)
            rows.writerow([name, "|".join(found) or "No Finding", i // 2])
    (folder / "BBox_List.csv").write_text("".join(boxes))
    return folder


def write_box_shards(folder: Path, num_images: int = 48) -> Path:
    """Write recipe.yaml, source/ and shards/ with boxes; return FOLDER/shards."""
    source = write_box_source(folder / "source", num_images)
    (folder / "recipe.yaml").write_text(BOX_RECIPE)
    write_shards(load_recipe(folder / "recipe.yaml"), source, folder / "shards", workers=0)
    return folder / "shards"
