"""Small shards of synthetic images, for tests with and without pytest."""

import csv
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from cxr_dist.shard.recipe import load_recipe
from cxr_dist.shard.write import write_shards

TINY_RECIPE = """
reader: demo
demo: {studies: 120, side: 64, seed: 0}
labels:
  task: multiclass
  classes: {Normal: normal, Cardiomegaly: cardiomegaly, Effusion: effusion, Opacity: opacity, Nodule: nodule}
split: {by: patient, train: 0.6, val: 0.2, test: 0.2, seed: 1}
image: {short_side: 64, quality: 90}
shard: {samples: 13}
"""


def replaced(text: str, *changes: str) -> str:
    """The text with the first, third, … of `changes`, which must be in it, replaced by the one that follows."""
    for old, new in zip(changes[::2], changes[1::2], strict=True):
        assert old in text, old
        text = text.replace(old, new)
    return text


def write_tiny_shards(folder: Path) -> Path:
    """Write recipe.yaml and shards/ of 120 small synthetic studies, 13 samples per shard; return FOLDER/shards."""
    (folder / "recipe.yaml").write_text(TINY_RECIPE)
    write_shards(load_recipe(folder / "recipe.yaml"), None, folder / "shards", workers=1)
    return folder / "shards"


def write_other_shards(folder: Path, *changes: str) -> Path:
    """Write shards by TINY_RECIPE, changed by `replaced`."""
    (folder / "recipe.yaml").write_text(replaced(TINY_RECIPE, *changes))
    write_shards(load_recipe(folder / "recipe.yaml"), None, folder / "shards", workers=1)
    return folder / "shards"


def write_study_shards(folder: Path) -> Path:
    """Write shards of 60 small synthetic studies; a sample is a frontal image and, in some studies, a lateral one."""
    recipe = TINY_RECIPE.replace("studies: 120", "studies: 60") + "samples: study\n"
    (folder / "studies.yaml").write_text(recipe)
    write_shards(load_recipe(folder / "studies.yaml"), None, folder / "studies", workers=1)
    return folder / "studies"


IMBALANCED_RECIPE = """
reader: table
table: images.csv
images: images
columns: {image: file, patient: patient, LABELS}
labels: {task: TASK}
split: {by: patient, train: 0.5, val: 0.25, test: 0.25, seed: 0}
image: {short_side: 32, quality: 95}
shard: {samples: 100}
"""
IMBALANCED = {
    "multiclass": ("label: class", "multiclass, classes: {Common: c, Rare: r, Rarest: x}"),
    "multilabel": ("labels: [A, B, C]", "multilabel, uncertain: ignore"),
}


def write_imbalanced_shards(folder: Path, task: Literal["multiclass", "multilabel"], num_images: int) -> Path:
    """Write shards of noise in which a class brightens its own third of the image; return FOLDER/shards.

    Multiclass: Common, Rare and Rarest, 77%, 15% and 8%. Multilabel: A 25%, B 10%, C 8%, which is unknown in 20%. Each
    patient has two images.
    """
    (folder / "images").mkdir(parents=True)
    random = np.random.default_rng(0)
    with (folder / "images.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "patient", "class", "A", "B", "C"])
        for i in range(num_images):
            one = random.choice(3, p=[0.77, 0.15, 0.08])
            present = np.arange(3) == one if task == "multiclass" else random.random(3) < [0.25, 0.10, 0.08]
            pixels = random.normal(100, 40, (32, 33)) + np.repeat(12 * present, 11)
            cv2.imwrite(str(folder / "images" / f"{i}.png"), pixels.clip(0, 255).astype(np.uint8))
            labels = [*map(int, present[:2]), "" if random.random() < 0.2 else int(present[2])]
            rows.writerow([f"{i}.png", f"patient {i // 2}", "crx"[one], *labels])
    columns, labels_of = IMBALANCED[task]
    text = IMBALANCED_RECIPE.replace("LABELS", columns).replace("TASK", labels_of)
    (folder / "recipe.yaml").write_text(text)
    write_shards(load_recipe(folder / "recipe.yaml"), folder, folder / "shards", workers=1)
    return folder / "shards"


ONE_SIDED = ("image", "report", "view")
ONE_SIDED_RECIPE = """
reader: table
table: images.csv
images: images
columns: {image: file, patient: patient, label: class, view: view, sex: sex, age: age, text: {findings: report}}
labels: {task: multiclass, classes: {Clear: c, Dense: d}}
split: {by: patient, train: 0.5, val: 0.2, test: 0.3, seed: 0}
image: {short_side: 32, quality: 95}
shard: {samples: 50}
"""


def write_one_sided_shards(folder: Path, informative: Literal["image", "report", "view"], num_images: int) -> Path:
    """Write shards of two classes that only the image, only the report or only the view shows; return FOLDER/shards.

    The image shows its class by a bright lower half, the report by a word. What is not informative is random. Each
    patient has two images, whose classes are independent of each other.
    """
    (folder / "images").mkdir(parents=True)
    random = np.random.default_rng(0)
    with (folder / "images.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "patient", "class", "view", "sex", "age", "report"])
        for i in range(num_images):
            label = int(random.integers(2))
            shown = {name: label if name == informative else int(random.integers(2)) for name in ONE_SIDED}
            pixels = random.normal(90, 30, (32, 33))
            pixels[16:] += 60 * shown["image"]
            cv2.imwrite(str(folder / "images" / f"{i}.png"), pixels.clip(0, 255).astype(np.uint8))
            report = f"the lungs look {('clear', 'dense')[shown['report']]} today"
            view, sex, age = ("PA", "AP")[shown["view"]], "MF"[int(random.integers(2))], int(random.integers(20, 80))
            rows.writerow([f"{i}.png", f"patient {i // 2}", "cd"[label], view, sex, age, report])
    (folder / "recipe.yaml").write_text(ONE_SIDED_RECIPE)
    write_shards(load_recipe(folder / "recipe.yaml"), folder, folder / "shards", workers=1)
    return folder / "shards"
