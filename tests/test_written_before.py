"""Files of an earlier version still open and give the same numbers: shards, a killed run and an exported model.

The files are in tests/written_before, and make.py there wrote them. The tests use only commands and cxr_dist.load, so
that they remain valid for every later version.
"""

import csv
import json
import math
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import cxr_dist

WRITTEN = Path(__file__).parent / "written_before"
EXPECTED = json.loads((WRITTEN / "expected.json").read_text())
# Relative tolerance. The version that wrote them repeats all numbers to the last bit on the same machine. With other
# instruction sets (SSE, AVX2, AVX-512) or two threads, sums are rounded in another order, and its losses, metrics and
# probabilities move by less than 5e-7; a change of what is computed moves them by more.
CLOSE = 1e-6
LAST_DIGIT = 1.5e-6  # `predict` rounds to six places


@pytest.fixture
def before(tmp_path, monkeypatch):
    """Copy the files to a folder, which becomes the working directory because the run's paths are relative to it."""
    folder = tmp_path / "before"
    shutil.copytree(WRITTEN, folder, symlinks=True)
    with tarfile.open(folder / "weights.tar.xz") as weights:
        weights.extractall(folder, filter="data")
    (folder / "run").chmod(0o700)  # git does not store this mode
    (folder / "shards" / "keys.csv").chmod(0o600)
    monkeypatch.chdir(folder)
    return folder


def run_command(*arguments):
    """Run a command in a separate process on the CPU, which must succeed, and return all that it printed."""
    command = [sys.executable, "-m", "cxr_dist", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def assert_same(found, kept, absolute=1e-9):
    """Assert that all recorded values are present, numbers within tolerance; further values are allowed."""
    found, kept = leaves(found), leaves(kept)
    assert len(kept) > 1
    pairs = {name: (found.get(name, "absent"), value) for name, value in kept.items()}
    assert {name: pair for name, pair in pairs.items() if not nearly_equal(*pair, absolute)} == {}


def nearly_equal(found, kept, absolute):
    if isinstance(found, float) and isinstance(kept, float):
        return math.isclose(found, kept, rel_tol=CLOSE, abs_tol=absolute)
    return found == kept


def leaves(plain, path=""):
    """Return path -> value for all values in nested dictionaries and lists."""
    if not isinstance(plain, dict | list):
        return {path: plain}
    items = plain.items() if isinstance(plain, dict) else enumerate(plain)
    return {name: leaf for key, value in items for name, leaf in leaves(value, f"{path}/{key}").items()}


def read_json(file):
    return json.loads(file.read_text())


def read_rows(file):
    """Return the rows of predictions.csv, with numeric cells as numbers."""
    with file.open(newline="") as lines:
        return [{name: number(cell) for name, cell in row.items()} for row in csv.DictReader(lines)]


def number(cell):
    try:
        return float(cell)
    except ValueError:
        return cell


def test_shards_are_as_they_were_written(before):
    assert "all shards are as they were written" in run_command("verify", "shards")


@pytest.mark.parametrize("folder", ["run", "export"])
def test_a_run_and_an_exported_model_predict_the_same(before, folder):
    """The passes are calibrated since then, so their summary differs.

    Takes about 5 s if it is the first test to import torch and transformers.
    """
    # The version before took any text as all sections of the run; now the user says which one it is.
    found = cxr_dist.load(folder).predict(**EXPECTED["case"], section="findings")
    same = ("probability", "calibrated", "mc_passes")
    assert_same(found, {name: EXPECTED[folder][name] for name in same}, absolute=LAST_DIGIT)
    assert set(EXPECTED[folder]) <= set(found)


def test_an_evaluation_gives_the_same_numbers(before):
    """Raw probabilities and their scores, and the metrics on validation, which is never calibrated.

    The calibration of test is chosen in another way since then, and metrics and thresholds follow it. Takes about 15 s:
    the command runs twice, imports torch and transformers, and resamples for the intervals.
    """
    found, kept = before / "run" / "evaluation", WRITTEN / "run" / "evaluation"
    shutil.rmtree(found / "test")
    written_at = (found / "val" / "predictions.csv").stat().st_mtime_ns
    run_command("evaluate", "run", "--mc-samples", "3")
    assert (
        found / "val" / "predictions.csv"
    ).stat().st_mtime_ns == written_at  # the predictions were read and not computed again
    facts, kept_facts = [read_json(folder / "test" / "metrics.json") for folder in (found, kept)]
    judged = ("metrics", "intervals", "calibration", "operating_points", "subgroups")
    assert set(kept_facts) <= set(facts)
    assert_same(facts, {name: value for name, value in kept_facts.items() if name not in judged})
    assert_same(facts["calibration"]["before"], kept_facts["calibration"]["before"])
    rows, kept_rows = [read_rows(folder / "test" / "predictions.csv") for folder in (found, kept)]
    raw = [name for name in kept_rows[0] if not name.startswith(("predict", "mc_", "expected", "mutual"))]
    assert_same(rows, [{name: row[name] for name in raw} for row in kept_rows])
    run_command("evaluate", "run", "--split", "val", "--mc-samples", "3")
    metrics, kept_metrics = [read_json(folder / "val" / "metrics.json")["metrics"] for folder in (found, kept)]
    assert_same(metrics, kept_metrics)
    rows, kept_rows = [read_rows(folder / "val" / "predictions.csv") for folder in (found, kept)]
    assert_same(rows, kept_rows, absolute=1e-8)  # the variances are of a few 1e-6 and more


def test_a_killed_run_resumes_to_the_same_losses(before):
    """Takes about 10 s: training runs in a separate process, most of whose time is spent on imports."""
    # The demo's schedule and class weights were others then.
    run_command(*EXPECTED["train"], "--optim.schedule", "linear", "--loss.class-weights", "none")
    lines = (before / "run" / "metrics.jsonl").read_text().splitlines()
    kept = (WRITTEN / "run" / "metrics.jsonl").read_text().splitlines()
    assert lines[: len(kept)] == kept  # including speeds: the run resumed from the checkpoint and did not start over
    assert_same([json.loads(line) for line in lines], EXPECTED["lines"])
    assert read_json(before / "run" / "finished.json") == {"step": EXPECTED["lines"][-1]["step"]}
