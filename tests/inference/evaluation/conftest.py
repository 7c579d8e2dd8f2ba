"""A run folder on the tiny shards, without training, and other shards of the same images."""

import csv
import dataclasses
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from made_shards import write_other_shards

from cxr_dist.config.named import named_run
from cxr_dist.config.run import Config
from cxr_dist.distributed.world import World
from cxr_dist.format.manifest import load_manifest
from cxr_dist.run import checkpoint
from cxr_dist.run.checkpoint import Progress
from cxr_dist.run.folder import manifest_sha256
from cxr_dist.shard.recipe import load_recipe
from cxr_dist.shard.write import write_shards
from cxr_dist.train.assembly import new_model, prepare_run_folder

CPU = torch.device("cpu")
TABLE_RECIPE = """
reader: table
table: images.csv
images: images
columns: {image: file, patient: patient, LABELS, text: {SECTION: report}}
labels: {task: TASK}
split: {by: patient, train: 0.4, val: 0.3, test: 0.3, seed: 0}
image: {short_side: 64, quality: 90}
shard: {samples: 20}
"""
CLASSES = "{Normal: normal, Cardiomegaly: cardiomegaly, Effusion: effusion, Opacity: opacity, Nodule: nodule}"
Write = Callable[..., Path]


def untrained_run(shards: Path, folder: Path, mode: str, image_size: int = 48, seed: int = 0) -> Path:
    """A run folder as training leaves it, whose weights give different predictions for different samples."""
    demo = named_run("demo")
    data = dataclasses.replace(demo.data, shards=str(shards), image_size=image_size, max_tokens=48, workers=0)
    model = dataclasses.replace(demo.model, mode=mode, fusion_dim=32, fusion_heads=4)
    config: Config = dataclasses.replace(demo, data=data, model=model, out=str(folder), seed=seed)
    prepare_run_folder(config, load_manifest(shards), World())
    tensors = new_model(config, load_manifest(shards), folder, CPU).state_dict()
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in tensors.items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=generator)
    tensors["head.output.weight"] *= 20
    state = checkpoint.TrainingState(step=7, progress=Progress(), manifest_sha256=manifest_sha256(shards))
    checkpoint.save(folder, state, tensors, {})
    checkpoint.mark_best(folder, 7)
    return folder


@pytest.fixture
def a_run(tiny_shards: Path, tmp_path: Path) -> Write:
    """`a_run(mode, ...)` makes a run on the tiny shards without an evaluation, as `untrained_run`."""
    return lambda mode="image", name="run", shards=tiny_shards, **more: untrained_run(
        shards, tmp_path / name, mode, **more
    )


@pytest.fixture(scope="session")
def other_shards(tmp_path_factory: pytest.TempPathFactory) -> Write:
    """`other_shards(old, new, ...)` writes shards by the tiny shards' recipe with `old` replaced by `new`, once."""
    written: dict[tuple[str, ...], Path] = {}

    def write(*changes: str) -> Path:
        if changes not in written:
            written[changes] = write_other_shards(tmp_path_factory.mktemp("other"), *changes)
        return written[changes]

    return write


@pytest.fixture
def reversed_shards(other_shards: Write) -> Path:
    """The images of the tiny shards, with the same classes in reverse order."""
    names = CLASSES.strip("{}").split(", ")
    return other_shards(CLASSES, "{" + ", ".join(reversed(names)) + "}")


def table_shards(folder: Path, task: str, section: str, columns: tuple[str, ...] = ()) -> Path:
    """Shards of a table of 60 images with the classes of the tiny shards, or, for multilabel, the given columns."""
    (folder / "images").mkdir(parents=True)
    random, names = np.random.default_rng(0), CLASSES.strip("{}").split(", ")
    with (folder / "images.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "patient", "finding", *columns, "report"])
        for i in range(60):
            cv2.imwrite(str(folder / "images" / f"{i}.png"), random.integers(0, 16 + 4 * i, (64, 64), np.uint8))
            cells = random.choice(["1", "0", ""], len(columns), p=[0.4, 0.4, 0.2])
            rows.writerow([f"{i}.png", i // 2, i % len(names), *cells, "heart size normal"])
    one_of = ", ".join(f"{name.split(':')[0]}: '{i}'" for i, name in enumerate(names))
    labels, of_task = "label: finding", f"multiclass, classes: {{{one_of}}}"
    if task == "multilabel":
        labels, of_task = f"labels: [{', '.join(columns)}]", "multilabel, uncertain: ignore"
    recipe = TABLE_RECIPE.replace("LABELS", labels).replace("TASK", of_task).replace("SECTION", section)
    (folder / "recipe.yaml").write_text(recipe)
    write_shards(load_recipe(folder / "recipe.yaml"), folder, folder / "shards", workers=1)
    return folder / "shards"


@pytest.fixture
def a_table(tmp_path: Path) -> Write:
    """`a_table(name, task, section, columns)` writes shards, as `table_shards`."""
    return lambda name, *arguments: table_shards(tmp_path / name, *arguments)


@pytest.fixture
def image_file(tmp_path: Path) -> Path:
    """An image file."""
    path = tmp_path / "image.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (80, 64), np.uint8))
    return path
