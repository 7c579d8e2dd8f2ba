"""A task of 200 classes or labels, from shards to an export: bounded tables, pictures, pages and tags."""

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
columns: {image: file, patient: patient, text: {notes: notes}, LABELS}
labels: {task: TASK}
split: {by: patient, train: 0.4, val: 0.3, test: 0.3, seed: 0}
image: {short_side: 16, quality: 90}
shard: {samples: 200}
"""
TASKS = {
    "multiclass": (
        "label: class", f"multiclass, classes: {{{', '.join(f'{name}: c{i}' for i, name in enumerate(CLASSES))}}}",
        lambda i: {"class": f"c{i % 200}"},
    ),
    # Each label is 1 in 40 of the 800 rows, unknown in 40, and 0 in the others.
    "multilabel": (
        f"labels: [{', '.join(CLASSES)}]", "multilabel, uncertain: ignore",
        lambda i: {name: {0: 1, 1: ""}.get((i - n) % 20, 0) for n, name in enumerate(CLASSES)},
    ),
}  # fmt: skip


def write_source(folder, task):
    """Write recipe.yaml, images.csv and 800 images of noise."""
    noise, (columns, labels, cells) = np.random.default_rng(0), TASKS[task]
    folder.mkdir()
    with (folder / "images.csv").open("w", newline="") as file:
        rows = csv.DictWriter(file, ["file", "patient", "notes", *cells(0)])
        rows.writeheader()
        for i in range(800):
            cv2.imwrite(str(folder / f"{i}.png"), noise.integers(0, 256, (16, 16), np.uint8))
            rows.writerow({"file": f"{i}.png", "patient": i, "notes": "a cough"} | cells(i))
    (folder / "recipe.yaml").write_text(RECIPE.replace("LABELS", columns).replace("TASK", labels))


@pytest.mark.parametrize("task", TASKS)
def test_two_hundred_classes_from_shards_to_an_export(tmp_path, cxr_dist, tried, task):
    """Takes about 25 s and 35 s: six commands each, of which `evaluate` resamples the metrics of 200 classes."""
    source, shards, run, page = (tmp_path / name for name in ("source", "shards", "run", "page"))
    write_source(source, task)
    case = source / "7.png"

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
    if task == "multiclass":
        assert np.shape(metrics["confusion_matrix"]) == (200, 200)
    else:
        assert any(scores["unknown"] for scores in metrics["per_class"].values())
    assert len(ran("compare", run, "--out", page, "--with-examples", 1).splitlines()) < 60
    html = (page / "report.html").read_text()
    assert len(html) < 2_000_000
    more = ", and that of the label" if task == "multiclass" else ""
    assert re.search(rf"2[01] of 200 classes: the most probable ones{more}\.", html)
    ran("predict", run, "--image", case, "--report", "a cough", "--mc-samples", 2, "--out", tmp_path / "one.png")
    height, width, _ = cv2.imread(str(tmp_path / "one.png")).shape
    assert max(height, width) < 3000
    ran("export", run, "--out", tmp_path / "export", "--onnx", "false")
    out = ran("predict", tmp_path / "export", "--image", case, "--no-report", "--mc-samples", 0, "--out",
              tmp_path / "two.png")  # fmt: skip
    assert len(json.loads(out)["probability"]) == 200
    tried(f"{task}, 200 classes from shards to an export", "read as it should be")
