"""A task of 200 classes, from shards to an export: bounded tables, pictures, pages and tags, and whole results."""

import csv
import json
import re

import cv2
import numpy as np
import pytest
from bad_files import FLAGS
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cxr_dist.format.manifest import load_manifest

CLASSES = [f"Finding {i} of the left lower lobe" for i in range(200)]
RECIPE = """
reader: table
table: images.csv
images: .
columns: {image: file, patient: patient, text: {notes: notes}, label: class}
labels: {task: multiclass, classes: {CLASSES}}
split: {by: patient, train: 0.4, val: 0.3, test: 0.3, seed: 0}
image: {short_side: 16, quality: 90}
shard: {samples: 200}
"""


@pytest.fixture
def source(tmp_path):
    """A folder with recipe.yaml, images.csv and 800 images of noise, four of each class."""
    folder, noise = tmp_path / "source", np.random.default_rng(0)
    folder.mkdir()
    with (folder / "images.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "patient", "class", "notes"])
        for i in range(800):
            cv2.imwrite(str(folder / f"{i}.png"), noise.integers(0, 256, (16, 16), np.uint8))
            rows.writerow([f"{i}.png", i, f"c{i % 200}", "a cough"])
    classes = ", ".join(f"{name}: c{i}" for i, name in enumerate(CLASSES))
    (folder / "recipe.yaml").write_text(RECIPE.replace("CLASSES", classes))
    return folder


def test_two_hundred_classes_from_shards_to_an_export(source, tmp_path, cxr_dist, tried):
    """Takes about 25 s: six commands, of which `evaluate` resamples the metrics of 200 classes."""
    shards, run, page, case = tmp_path / "shards", tmp_path / "run", tmp_path / "page", source / "7.png"

    def ran(*arguments):
        status, out, err = cxr_dist(*arguments)
        assert status == 0, err
        assert "Warning" not in err
        return out

    said = ran("shard", source / "recipe.yaml", "--source", source, "--out", shards, "--workers", 1)
    assert len(said.splitlines()) < 150
    assert "the first 50 of 200 classes; manifest.json has all" in " ".join(said.split())
    assert list(load_manifest(shards).classes) == CLASSES
    ran("train", "demo", "--data.shards", shards, "--out", run, *FLAGS, "--data.text-sections", "notes")
    events = EventAccumulator(str(run)).Reload()
    assert len(events.Tags()["scalars"]) < 60
    for name in events.Tags()["images"]:
        assert max(events.Images(name)[-1].width, events.Images(name)[-1].height) < 1000
    ran("evaluate", run, "--mc-samples", 2)
    metrics = json.loads((run / "evaluation" / "test" / "metrics.json").read_text())["metrics"]
    assert list(metrics["per_class"]) == CLASSES
    assert np.shape(metrics["confusion_matrix"]) == (200, 200)
    assert len(ran("compare", run, "--out", page, "--with-examples", 1).splitlines()) < 60
    html = (page / "report.html").read_text()
    assert len(html) < 2_000_000
    assert re.search(r"2[01] of 200 classes: the most probable ones, and that of the label\.", html)
    ran("predict", run, "--image", case, "--report", "a cough", "--mc-samples", 2, "--out", tmp_path / "one.png")
    height, width, _ = cv2.imread(str(tmp_path / "one.png")).shape
    assert max(height, width) < 3000
    ran("export", run, "--out", tmp_path / "export", "--onnx", "false")
    out = ran("predict", tmp_path / "export", "--image", case, "--no-report", "--mc-samples", 0, "--out",
              tmp_path / "two.png")  # fmt: skip
    assert len(json.loads(out)["probability"]) == 200
    tried("200 classes from shards to an export", "read as it should be")
