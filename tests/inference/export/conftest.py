"""A run folder whose weights give different predictions per case, without training, and its exported model."""

import csv
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from cxr_dist.config.named import named_run
from cxr_dist.data.text import prepare_text_folder
from cxr_dist.distributed.world import World
from cxr_dist.format.manifest import load_manifest
from cxr_dist.inference.evaluation import evaluate_runs
from cxr_dist.inference.export import export
from cxr_dist.inference.export_sums import write_sums
from cxr_dist.model.monte_carlo import McDropout
from cxr_dist.run import checkpoint
from cxr_dist.run.checkpoint import Progress
from cxr_dist.run.folder import manifest_sha256
from cxr_dist.shard.recipe import load_recipe
from cxr_dist.shard.write import write_shards
from cxr_dist.train.assembly import new_model, prepare_run_folder

CPU = torch.device("cpu")
SECRETS = {"patient": "PAT-ZYX-777", "file": "smith-john-1955", "word": "Featherstonehaugh"}
RECIPE = """
reader: table
table: images.csv
images: images
columns: {image: file, patient: patient, LABELS, text: {notes: notes}}
labels: {task: TASK}
split: {by: patient, train: 0.5, val: 0.2, test: 0.3, seed: 0}
image: {short_side: 48, quality: 90}
shard: {samples: 20}
"""
LABELS = {
    "multiclass": ("label: finding", "multiclass, classes: {Sick: sick, Well: well}"),
    "multilabel": ("labels: [Effusion, Edema]", "multilabel, uncertain: ignore"),
}


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """A table of 60 PNG images, whose patients, file names and notes hold secrets, and a local text encoder."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    notes = [f"{rng.choice(['cough', 'fever'])} for {i} days, {SECRETS['word']}" for i in range(60)]
    with (folder / "images.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "patient", "finding", "Effusion", "Edema", "notes"])
        for i, note in enumerate(notes):
            name = f"{SECRETS['file']}-{i}.png"
            cv2.imwrite(str(folder / "images" / name), rng.integers(0, 16 + 4 * i, (64, 80), np.uint8))
            one, other = rng.choice(["1", "0", ""]), rng.choice(["1", "0"])
            rows.writerow([name, f"{SECRETS['patient']}-{i // 2}", ["sick", "well"][i % 2], one, other, note])
    for task, (columns, labels) in LABELS.items():
        text = RECIPE.replace("LABELS", columns).replace("TASK", labels)
        (folder / f"{task}.yaml").write_text(text)
        write_shards(load_recipe(folder / f"{task}.yaml"), folder, folder / f"{task}-shards", workers=1)
    prepare_text_folder(folder / "bert", None, iter(["cough fever days"] * 30))
    bert = json.loads((folder / "bert" / "config.json").read_text())
    (folder / "bert" / "config.json").write_text(json.dumps(bert | {"_name_or_path": str(folder)}))
    return folder


def make_run_folder(source: Path, folder: Path, mode: str, task: str, image_encoder: str = "densenet-narrow") -> Path:
    """A run folder as training leaves it, whose weights give different predictions per case."""
    demo = named_run("demo")
    config = dataclasses.replace(
        demo,
        data=dataclasses.replace(
            demo.data,
            shards=str(source / f"{task}-shards"),
            image_size=32,
            max_tokens=16,
            workers=0,
            text_sections=("notes",),
        ),
        model=dataclasses.replace(
            demo.model,
            mode=mode,
            image_encoder=image_encoder,
            text_encoder=str(source / "bert"),
            fusion_dim=32,
            fusion_heads=4,
        ),
        out=str(folder),
        precision="fp32",
    )
    manifest = load_manifest(Path(config.data.shards))
    prepare_run_folder(config, manifest, World())
    tensors = new_model(config, manifest, folder, CPU).state_dict()
    generator = torch.Generator().manual_seed(0)
    for name, tensor in tensors.items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=generator)
    tensors["head.output.weight"] *= 20
    digest = manifest_sha256(Path(config.data.shards))
    state = checkpoint.TrainingState(step=7, progress=Progress(), manifest_sha256=digest)
    checkpoint.save(folder, state, tensors, {})
    checkpoint.mark_best(folder, 7)
    return folder


@pytest.fixture(scope="session")
def run_dir(source, tmp_path_factory):
    """A fused run with two classes, evaluated on the test split with 3 dropout passes."""
    folder = make_run_folder(source, tmp_path_factory.mktemp("runs") / "run", "fused", "multiclass")
    evaluate_runs([folder], folder, "test", McDropout(passes=3))
    return folder


@pytest.fixture(scope="session")
def exported(run_dir, tmp_path_factory):
    """The model of `run_dir`, exported with its ONNX graph; tests must not change it."""
    out = tmp_path_factory.mktemp("exports") / "model"
    export(run_dir, out, with_onnx=True)
    return out


@pytest.fixture
def copy(exported, tmp_path):
    """A copy of the exported model, without the graph, that a test may damage."""
    shutil.copytree(exported, tmp_path / "copy")
    (tmp_path / "copy" / "model.onnx").unlink()
    write_sums(tmp_path / "copy")
    return tmp_path / "copy"


def read_cases(source: Path, task: str) -> dict[str, tuple[Path, str]]:
    """The image file and the note of every key, from the private keys.csv and the table."""
    with (source / "images.csv").open(newline="") as file:
        notes = {row["file"]: row["notes"] for row in csv.DictReader(file)}
    with (source / f"{task}-shards" / "keys.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    names = {cell: row for row in rows for cell in row if cell.split("/")[-1] in notes}
    return {
        row[0]: (source / "images" / name.split("/")[-1], notes[name.split("/")[-1]]) for name, row in names.items()
    }


@pytest.fixture(scope="session")
def secrets() -> dict[str, str]:
    """Words that no exported file may hold."""
    return SECRETS


@pytest.fixture
def a_run(source) -> Callable[..., Path]:
    """`a_run(folder, mode, task)` makes a run folder without an evaluation; a fourth argument is the image encoder."""
    return lambda folder, mode, task, *encoder: make_run_folder(source, folder, mode, task, *encoder)


@pytest.fixture
def cases_of(source) -> Callable[[str], dict[str, tuple[Path, str]]]:
    """`cases_of(task)` gives the image file and the note of every key in the shards."""
    return lambda task: read_cases(source, task)
