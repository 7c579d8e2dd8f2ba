"""Nothing that a run writes holds report text, patient ids or names of image files; searched as bytes.

The folder of a run with its logs, TensorBoard files, figures and evaluation, the page and record of a comparison, and
an exported model with its ONNX graph. Only predictions.csv may hold the keys, which are hashes.
"""

import csv
import re
import signal

import cv2
import numpy as np
import pytest
from bad_files import FLAGS

CANARIES = {"file": "Zyxwvu-smith-1955", "patient": "Qwrtpls-4711", "report": "Featherstonehaugh"}
RECIPE = """
reader: table
table: images.csv
images: images
columns: {image: file, patient: patient, label: finding, text: {findings: notes}}
labels: {task: multiclass, classes: {Sick: sick, Well: well}}
split: {by: patient, train: 0.6, val: 0.2, test: 0.2, seed: 0}
image: {short_side: 32, quality: 90}
shard: {samples: 20}
"""


@pytest.fixture
def source(tmp_path):
    """A table whose file names and patient ids hold canaries, and one of whose reports does."""
    folder = tmp_path / "source"
    (folder / "images").mkdir(parents=True)
    (folder / "recipe.yaml").write_text(RECIPE)
    random = np.random.default_rng(0)
    with (folder / "images.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "patient", "finding", "notes"])
        for i in range(60):
            name = f"{CANARIES['file']}-{i}.png"
            cv2.imwrite(str(folder / "images" / name), random.integers(0, 99 + i, (40, 40), np.uint8))
            note = f"cough for {i} days" + (f", Dr {CANARIES['report']}" if i == 7 else "")
            rows.writerow([name, f"{CANARIES['patient']}-{i // 2}", ["sick", "well"][i % 2], note])
    return folder


def test_no_output_holds_a_canary(source, tmp_path, cxr_dist):
    """Takes about 15 s: it runs six commands and exports a graph."""
    pytest.importorskip("onnx")
    before = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)}
    shards, run = tmp_path / "shards", tmp_path / "run"
    said = ""
    for command in (
        ("shard", source / "recipe.yaml", "--source", source, "--out", shards, "--workers", 0),
        ("train", "demo", "--data.shards", shards, *FLAGS, "--data.text-sections", "findings", "--out", run),
        ("evaluate", run, "--mc-samples", 2),
        ("compare", run, "--out", tmp_path / "page"),
        ("export", run, "--out", tmp_path / "exported"),
    ):
        status, out, err = cxr_dist(*command)
        assert status == 0, err
        said += out + err
    for name, handler in before.items():
        signal.signal(name, handler)
    written = [path for folder in ("run", "page", "exported") for path in (tmp_path / folder).rglob("*")]
    contents = {path: path.read_bytes() for path in written if path.is_file()}
    assert {"model.onnx", "report.html", "metrics.jsonl", "predictions.csv"} <= {path.name for path in contents}
    assert any(path.name.startswith("events.out.tfevents") for path in contents)
    leaky = re.compile("|".join(CANARIES.values()).encode(), re.IGNORECASE)
    assert [path.relative_to(tmp_path) for path, content in contents.items() if leaky.search(content)] == []
    assert not leaky.search(said.encode())
