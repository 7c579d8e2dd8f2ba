"""A small data set in the layout of NIH ChestX-ray14, in which a square marks each finding and its box is known.

A Mass is a bright square and a Cyst a dark one. Images are upright, wide and square, and some squares are at their
margin, outside of the centre crop. `finder_run` is a model whose Grad-CAM is the square.
"""

import csv
import dataclasses
from pathlib import Path

import cv2
import numpy as np
import torch
from made_shards import replaced

from cxr_dist.config.named import named_run
from cxr_dist.config.run import Config
from cxr_dist.distributed.world import World
from cxr_dist.evaluate.explain_boxes import COLUMNS
from cxr_dist.format.folds import of_fold
from cxr_dist.format.manifest import load_manifest
from cxr_dist.run import checkpoint
from cxr_dist.run.checkpoint import Progress
from cxr_dist.run.folder import manifest_sha256
from cxr_dist.shard.recipe import load_recipe
from cxr_dist.shard.write import write_shards
from cxr_dist.train.assembly import new_model, prepare_run_folder

HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"
BOX_RECIPE = """
reader: table
table: Data_Entry.csv
columns: {image: Image Index, patient: Patient ID, label: Finding Labels, text: {findings: Report}}
labels: {task: multilabel, separator: "|", classes: {Mass: Mass, Cyst: Cyst}}
boxes: {table: BBox_List.csv, classes: {Cyst: Cystic}}
split: {by: patient, train: 0.4, val: 0.2, test: 0.4, seed: 0}
image: {short_side: 40, quality: 95}
shard: {samples: 9}
"""
SHAPES = ((60, 90), (80, 60), (64, 64))  # height and width in pixels; a third of the images has each


def write_box_source(folder: Path, num_images: int = 48, scale: float = 1.0) -> Path:
    """Write Data_Entry.csv, BBox_List.csv and images/ to `folder`; boxes are in pixels of images `scale` times larger.

    Each patient has two images with the same findings: half of the patients have a Mass, a third a Cyst, some both.
    """
    (folder / "images").mkdir(parents=True)
    random = np.random.default_rng(0)
    boxes = [HEADER]
    with (folder / "Data_Entry.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["Image Index", "Finding Labels", "Patient ID", "Report"])
        for i in range(num_images):
            name, (height, width) = f"secret{i:03d}.png", SHAPES[i % 3]
            pixels = random.integers(90, 130, (height, width)).astype(np.uint8)
            found = [finding for finding, every in (("Mass", 2), ("Cyst", 3)) if i // 2 % every == 0]
            for finding in found:
                side = 12 if i % 9 == 3 else int(random.integers(12, 20))
                x, y = int(random.integers(0, width - side)), int(random.integers(0, height - side))
                x = 0 if i % 9 == 3 else x  # a wide image, of which the centre crop loses 15 columns on either side
                pixels[y : y + side, x : x + side] = 240 if finding == "Mass" else 10
                label = {"Mass": "Mass", "Cyst": "Cystic"}[finding]
                boxes.append(f"{name},{label},{','.join(str(scale * value) for value in (x, y, side, side))}\n")
            cv2.imwrite(str(folder / "images" / name), pixels)
            rows.writerow([name, "|".join(found) or "No Finding", i // 2, f"Report of patient {i // 2}."])
    (folder / "BBox_List.csv").write_text("".join(boxes))
    return folder


def write_box_shards(folder: Path, num_images: int = 48, more: str = "", *changes: str) -> Path:
    """Write recipe.yaml, source/ and shards/ with boxes, by BOX_RECIPE and `more`, changed; return FOLDER/shards."""
    source = write_box_source(folder / "source", num_images)
    (folder / "recipe.yaml").write_text(replaced(BOX_RECIPE + more, *changes))
    write_shards(load_recipe(folder / "recipe.yaml"), source, folder / "shards", workers=0)
    return folder / "shards"


FINDER = '''
import torch
from torch import nn


class Finder(nn.Module):
    """One token for each pixel: how much it is brighter, and how much darker, than the noise."""

    width, mean, deviation = 2, 0.0, 1.0

    def __init__(self, config):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))

    def forward(self, images):
        found = torch.cat([images - 0.7, 0.25 - images], dim=1).clamp_min(0).flatten(2).transpose(1, 2)
        tokens = found * self.scale
        return tokens, tokens.mean(dim=1)
'''


def finder_run(shards: Path, folder: Path, mode: str = "image", fold: int | None = None) -> Path:
    """A run folder as training leaves it. In image mode the logit of Mass is what is bright, of Cyst what is dark."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    (folder.parent / "finder.py").write_text(FINDER)
    demo = named_run("demo")
    data = dataclasses.replace(
        demo.data, shards=str(shards), image_size=40, max_tokens=16, workers=0, evaluation_batch=8, fold=fold
    )
    encoder = f"{folder.parent / 'finder.py'}:Finder"
    model = dataclasses.replace(demo.model, mode=mode, image_encoder=encoder, fusion_dim=16, fusion_heads=2)
    config: Config = dataclasses.replace(demo, data=data, model=model, out=str(folder))
    manifest = of_fold(load_manifest(shards), fold)
    prepare_run_folder(config, manifest, World())
    tensors = new_model(config, manifest, folder, torch.device("cpu")).state_dict()
    if mode == "image":
        for name in ("first", "second", "output"):
            tensors[f"head.{name}.bias"].zero_()
            tensors[f"head.{name}.weight"].zero_()[:2, :2] = torch.eye(2)
    state = checkpoint.TrainingState(step=7, progress=Progress(), manifest_sha256=manifest_sha256(shards))
    checkpoint.save(folder, state, tensors, {})
    checkpoint.mark_best(folder, 7)
    return folder


def made_scores(num_samples: int = 40, hit: float = 0.8, inside: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Scores of one or two findings on each sample, two samples a patient; and the patient of each sample."""
    random, rows = np.random.default_rng(0), []
    for sample in range(num_samples):
        for index in range(2 if sample % 3 == 0 else 1):
            row = dict.fromkeys(COLUMNS, 0.0) | {"sample": sample, "class": index, "boxes": 1, "area": 0.1}
            row |= {
                "grad_cam:hit": random.random() < hit,
                "grad_cam:inside": random.uniform(inside - 0.1, inside + 0.1),
            }
            row |= {"centred_gaussian:hit": random.random() < 0.3, "centred_gaussian:inside": random.uniform(0.1, 0.2)}
            row |= {"random:hit": random.random() < 0.1, "random:inside": 0.1}
            row |= {f"attention:{score}": np.nan for score in ("hit", "inside", "empty")}
            rows.append([float(row[name]) for name in COLUMNS])
    return np.array(rows), np.array([f"patient{sample // 2}" for sample in range(num_samples)], dtype="S16")
