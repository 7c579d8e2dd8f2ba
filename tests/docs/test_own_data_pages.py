"""The recipes and the code that the pages about one's own data show do what the pages say."""

import csv
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from cxr_dist.format.manifest import Manifest
from cxr_dist.shard.recipe import load_recipe
from cxr_dist.shard.verify import verify
from cxr_dist.shard.write import write_shards

DOCS = Path(__file__).parents[2] / "docs"


def block_of(page: str, language: str) -> str:
    found = re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(found) == 1, page
    return str(found[0])


def write_image(path: Path, random: np.random.Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), random.integers(0, 256, (40, 40), dtype=np.uint8))


def sharded(folder: Path, page: str) -> Manifest:
    (folder / "recipe.yaml").write_text(block_of(page, "yaml"))
    manifest = write_shards(load_recipe(folder / "recipe.yaml"), folder, folder / "SHARDS", workers=1)
    assert verify(folder / "SHARDS", near_duplicates=False, workers=0) == []
    return manifest


def test_a_folder_whose_folders_are_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    for number in range(48):
        name = f"{('Normal', 'Pneumonia')[number // 2 % 2]}/p{number // 2:04}_{number % 2}.png"
        write_image(tmp_path / "IMAGES" / name, random)
    monkeypatch.chdir(tmp_path)
    exec(compile(block_of("how-to/folder-of-images.md", "python"), "folder-of-images.md", "exec"), {})
    manifest = sharded(tmp_path, "how-to/folder-of-images.md")
    assert manifest.classes == ("Normal", "Pneumonia")
    assert sum(split.patients for split in manifest.splits.values()) == 24  # no patient in two splits
    assert sum(split.samples for split in manifest.splits.values()) == 48


def test_the_table_of_the_tutorial(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    with (tmp_path / "images.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "patient_id", "diagnosis", "indication", "findings"])
        for number in range(60):
            write_image(tmp_path / "images" / f"{number:04}.png", random)
            diagnosis = ("pneumonia", "normal", "fracture")[number % 3]
            rows.writerow([f"{number:04}.png", f"p{number}", diagnosis, "cough", f"number {number} is hazy"])
    manifest = sharded(tmp_path, "tutorials/own-table.md")
    assert manifest.classes == ("Pneumonia", "Normal", "Other")
    assert manifest.text_sections == ("indication", "findings")
    assert {name: split.samples for name, split in manifest.splits.items()} == {"train": 42, "val": 9, "test": 9}
