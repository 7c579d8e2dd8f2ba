"""The whole job from a table to a report page: on real images if available, and with planted secrets."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

RECIPES = Path(__file__).resolve().parents[1] / "shards"
SMALL = "--data.global-batch 8 --data.micro-batch 4 --data.image-size 48 --data.max-tokens 32 --train.max-steps 6"
SMALL += " --train.log-every 1 --train.eval-every 3 --data.text-sections notes --data.workers 1"


def cxr_dist(*arguments, expected=0):
    """Run a command in a separate process and return all that it printed."""
    command = [sys.executable, "-m", "cxr_dist", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == expected, done.stdout + done.stderr
    return done.stdout + done.stderr


def whole_job(shards, folder):
    """Train an image-only and a fused run, evaluate and compare; return all that was printed and the comparison."""
    said = ""
    for run, mode in (("demo-baseline", "image"), ("demo", "fused")):
        out = folder / mode
        said += cxr_dist("train", run, "--data.shards", shards, "--out", out, *SMALL.split())
        said += cxr_dist("evaluate", out, "--mc-samples", "3")
    said += cxr_dist("compare", folder / "image", folder / "fused", "--out", folder / "comparison")
    return said, json.loads((folder / "comparison" / "comparison.json").read_text())


@pytest.mark.shared
def test_real_images_and_notes_from_the_published_table_to_the_page(real_data, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "images").symlink_to(real_data / "covid-cxr" / "images")
    with (real_data / "covid-cxr" / "metadata.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    chosen = [r for r in rows if "COVID" in r["finding"]][:60] + [r for r in rows if "COVID" not in r["finding"]]
    with (source / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(chosen)
    cxr_dist("shard", RECIPES / "covid_cxr.yaml", "--source", source, "--out", tmp_path / "shards")
    assert "as they were written" in cxr_dist("verify", tmp_path / "shards")
    _, comparison = whole_job(tmp_path / "shards", tmp_path)
    assert comparison["classes"] == ["COVID-19", "Other"]
    assert not comparison["made_data"]
    for run in comparison["runs"]:
        auc = run["metrics"]["macro_roc_auc"]
        assert 0 <= auc["low"] <= auc["value"] <= auc["high"] <= 1


# `word` is in all reports, and `once` in one of them.
SECRETS = {"patient": "PAT-ZYX-777", "file": "smith-john-1955", "word": "Featherstonehaugh", "once": "Cholmondeley"}

RECIPE = """
reader: table
table: films.csv
images: films
columns: {image: file, patient: patient, label: finding, text: {notes: notes}}
labels: {task: multiclass, classes: {Sick: sick, Well: well}}
split: {by: patient, train: 0.6, val: 0.2, test: 0.2, seed: 0}
image: {short_side: 48, quality: 90}
shard: {samples: 20}
"""


@pytest.fixture
def secret_shards(tmp_path):
    """Write shards of 60 images with secrets in patient ids, file names and notes, which no output may contain."""
    films = tmp_path / "source" / "films"
    films.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for i in range(60):
        name = f"{SECRETS['file']}-{i}.png"
        cv2.imwrite(str(films / name), rng.integers(0, 256, (64, 64), np.uint8))
        notes = f"{SECRETS['word']}{i} reports a cough, lungs clear" + (f", Dr {SECRETS['once']}" if i == 7 else "")
        rows.append([name, f"{SECRETS['patient']}-{i}", "sick" if i % 2 else "well", notes])
    with (tmp_path / "source" / "films.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file", "patient", "finding", "notes"], *rows])
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    said = cxr_dist("shard", tmp_path / "recipe.yaml", "--source", tmp_path / "source", "--out", tmp_path / "shards")
    assert not leaks(said.encode())
    return tmp_path / "shards"


def leaks(data: bytes) -> list[str]:
    return [word for word in SECRETS.values() if word.lower().encode() in data.lower()]


def test_no_report_text_patient_id_or_file_name_appears_in_outputs(secret_shards, tmp_path):
    """Takes about 45 s, because each of six commands is a process, so that all that workers print is searched too."""
    pytest.importorskip("onnx")
    out = tmp_path / "out"
    said, _ = whole_job(secret_shards, out)
    said += cxr_dist("export", out / "fused", "--out", out / "exported")
    assert not leaks(said.encode())
    written = [path for path in out.rglob("*") if path.is_file()]
    names = {path.name for path in written}
    assert {"model.onnx", "report.html", "metrics.jsonl", "predictions.csv", "comparison.json"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert len(written) > 20
    assert not [path.name for path in written if leaks(path.read_bytes()) or leaks(str(path.name).encode())]


def test_errors_do_not_reveal_secrets(secret_shards, tmp_path):
    victim = secret_shards / "train-00000.tar"
    data = bytearray(victim.read_bytes())
    data[1000] ^= 1
    victim.write_bytes(data)
    damaged = ("train", "demo", "--data.shards", secret_shards, "--out", tmp_path / "run", *SMALL.split())
    said = cxr_dist(*damaged, expected=2) + cxr_dist("verify", secret_shards, expected=1)
    assert "train-00000.tar" in said
    assert not leaks(said.encode())


MULTILABEL = """
reader: table
table: films.csv
images: films
columns: {image: file, patient: patient, labels: [Effusion, Edema], text: {notes: notes}}
labels: {task: multilabel, uncertain: ignore}
split: {by: patient, train: 0.6, val: 0.2, test: 0.2, seed: 0}
image: {short_side: 48, quality: 90}
shard: {samples: 20}
"""


def test_the_whole_job_with_several_labels_some_of_them_unknown(tmp_path):
    films = tmp_path / "source" / "films"
    films.mkdir(parents=True)
    rng = np.random.default_rng(0)
    with (tmp_path / "source" / "films.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "patient", "Effusion", "Edema", "notes"])
        for i in range(60):
            cv2.imwrite(str(films / f"{i}.png"), rng.integers(0, 256, (64, 64), np.uint8))
            rows.writerow([f"{i}.png", i, rng.choice(["1", "0", "", "-1"]), rng.choice(["1", "0"]), "a cough"])
    (tmp_path / "recipe.yaml").write_text(MULTILABEL)
    cxr_dist("shard", tmp_path / "recipe.yaml", "--source", tmp_path / "source", "--out", tmp_path / "shards")
    _, comparison = whole_job(tmp_path / "shards", tmp_path)
    assert (comparison["task"], comparison["classes"]) == ("multilabel", ["Effusion", "Edema"])
    metrics = json.loads((tmp_path / "fused" / "evaluation" / "test" / "metrics.json").read_text())["metrics"]
    effusion, edema = metrics["per_class"]["Effusion"], metrics["per_class"]["Edema"]
    assert effusion["unknown"] > 0
    assert effusion["positive"] + effusion["negative"] + effusion["unknown"] == metrics["n"]
    assert edema["unknown"] == 0
