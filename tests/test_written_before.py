"""Folders that an earlier version wrote still open, and give its numbers: shards, a run, an exported model.

tests/written_before/make.py says how they were written.
"""

import csv
import json
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
CLOSE = 1e-6


@pytest.fixture
def before(tmp_path, monkeypatch):
    """A copy of what was written, as it lay on disk then; it is the working folder, because runs name paths in it."""
    folder = tmp_path / "before"
    shutil.copytree(WRITTEN, folder, symlinks=True)
    with tarfile.open(folder / "weights.tar.xz") as weights:
        weights.extractall(folder, filter="data")
    (folder / "run").chmod(0o700)  # git keeps no modes
    (folder / "shards" / "keys.csv").chmod(0o600)
    monkeypatch.chdir(folder)
    return folder


def run_command(*arguments):
    """A command as its own process, which has to succeed; returns all that it printed."""
    command = [sys.executable, "-m", "cxr_dist", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def leaves(plain, path=""):
    """`path` -> value for all that nested dictionaries and lists hold."""
    if isinstance(plain, dict | list):
        items = plain.items() if isinstance(plain, dict) else enumerate(plain)
        return {name: leaf for key, value in items for name, leaf in leaves(value, f"{path}/{key}").items()}
    return {path: plain}


def assert_same(found, kept, absolute=0.0):
    """Every value that was kept is found again; the new version may say more."""
    found, kept = leaves(found), leaves(kept)
    assert kept
    assert {name: found.get(name) for name in kept} == pytest.approx(kept, rel=CLOSE, abs=absolute)


def test_the_shards_are_as_they_were_written(before):
    assert "all shards are as they were written" in run_command("verify", "shards")


@pytest.mark.parametrize("folder", ["run", "export"])
def test_a_run_and_an_exported_model_predict_the_same(before, folder):
    found = cxr_dist.load(folder).predict(**EXPECTED["case"])
    assert_same(found, EXPECTED[folder], absolute=CLOSE)


def read_rows(file):
    with file.open(newline="") as rows:
        return [{name: number(cell) for name, cell in row.items()} for row in csv.DictReader(rows)]


def number(cell):
    try:
        return float(cell)
    except ValueError:
        return cell


def test_an_evaluation_gives_the_same_numbers(before):
    test, val = before / "run/evaluation/test", before / "run/evaluation/val"
    shutil.rmtree(test)
    kept = {file.name: file.stat().st_mtime_ns for file in val.iterdir()}
    run_command("evaluate", "run", "--mc-samples", "3")
    assert {file.name: file.stat().st_mtime_ns for file in val.iterdir()} == kept
    written = WRITTEN / "run/evaluation/test"
    assert_same(read_rows(test / "predictions.csv"), read_rows(written / "predictions.csv"))
    found, expected = [json.loads((folder / "metrics.json").read_text()) for folder in (test, written)]
    assert_same(found, expected)


def test_a_killed_run_goes_on_to_the_same_losses(before):
    run_command(*EXPECTED["train"])
    lines = (before / "run/metrics.jsonl").read_text().splitlines()
    kept = (WRITTEN / "run/metrics.jsonl").read_text().splitlines()
    assert lines[: len(kept)] == kept
    assert_same([json.loads(line) for line in lines], EXPECTED["lines"])
