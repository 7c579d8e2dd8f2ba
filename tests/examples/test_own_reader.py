"""The examples of a reader and of stages, copied to a folder outside the repository and used there."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SMALL = (
    "--data.global-batch 8 --data.micro-batch 4 --data.image-size 48 --data.max-tokens 32 --train.max-steps 4 "
    "--train.log-every 1 --train.eval-every 2 --data.text-sections findings --data.workers 1"
)


@pytest.fixture
def site(tmp_path):
    """A folder with the examples' files and the data of 40 patients, every second with a lateral image too."""
    for name in ("own_reader/reader.py", "own_reader/recipe.yaml", "own_stage/stages.py"):
        shutil.copy(EXAMPLES / name, tmp_path)
    rng = np.random.default_rng(0)
    labels = {}
    for number in range(40):
        patient = tmp_path / "source" / f"p{number:04d}"
        patient.mkdir(parents=True)
        for view in ("pa", "lateral")[: 1 + number % 2]:
            image = rng.integers(0, 256, (64, 72), dtype=np.uint8)
            (patient / f"{view}.png").write_bytes(bytes(cv2.imencode(".png", image)[1]))
        (patient / "report.txt").write_text(f"FINDINGS: Image {number} is noise.\nIMPRESSION: Nothing.\n")
        labels[patient.name] = ("normal", "effusion")[number // 2 % 2]
    (tmp_path / "source" / "labels.json").write_text(json.dumps(labels))
    return tmp_path


@pytest.fixture
def cxr_dist(at_site):
    """Run a command in the folder, which must succeed; returns its output."""

    def run(*arguments):
        status, output = at_site(*arguments)
        assert status == 0, output
        return output

    return run


def test_the_examples_lead_from_the_layout_of_a_site_to_a_trained_model(site, cxr_dist):
    """Takes about half a minute, because four processes start, and three of them import torch."""
    cxr_dist("shard", "recipe.yaml", "--source", "source", "--out", "shards", "--workers", "2")
    manifest = json.loads((site / "shards" / "manifest.json").read_text())
    assert sum(split["samples"] for split in manifest["splits"].values()) == 40  # frontal images only
    assert manifest["reader"] == manifest["recipe"]["reader"] == "reader.py:read"
    assert manifest["labels_from"] == "two radiologists, who saw the images and not the reports"
    assert str(site) not in (site / "shards" / "manifest.json").read_text()
    assert "as they were written" in cxr_dist("verify", "shards")
    stages = ("--data.stages", "stages.py:collimate", "stages.py:forget_indication")
    cxr_dist("train", "demo", "--data.shards", "shards", "--out", "run", *stages, *SMALL.split())
    cxr_dist("evaluate", "run", "--mc-samples", "2")
    lines = [json.loads(line) for line in (site / "run" / "metrics.jsonl").read_text().splitlines()]
    assert max(line["step"] for line in lines) == 4
    evaluated = json.loads((site / "run" / "evaluation" / "test" / "metrics.json").read_text())
    assert evaluated["label_source"] == manifest["labels_from"]
