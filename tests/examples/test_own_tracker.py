"""User-defined trackers in real training processes outside the repository."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import yaml

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "own_tracker" / "tracker.py"
RAISES = """
class Raises:
    def __init__(self, run_dir, config):
        self.calls = 0
    def log(self, values, step):
        self.calls += 1
        if self.calls == 3:
            raise RuntimeError("not to be repeated")
        assert self.calls < 3
    def figure(self, name, figure, step):
        self.log({}, step)
    def close(self):
        self.log({}, 0)
"""
NO_LOG = "def without_log(run_dir, config):\n    return object()\n"


@pytest.fixture
def train(tiny_shards, tmp_path, at_site):
    """`train(source, name, out)` trains four steps with a tracker; returns the exit status and the output."""
    flags = ["--model.mode", "image", "--data.image-size", "32", "--data.global-batch", "16"]
    flags += ["--data.micro-batch", "16", "--train.max-steps", "4", "--train.log-every", "1"]

    def run(source: str, name: str, out: str) -> tuple[int, str]:
        (tmp_path / "mine.py").write_text(source)
        tracker = ("--trackers", f"mine.py:{name}", "--out", out)
        return at_site("train", "demo", *flags, "--data.shards", tiny_shards, *tracker)

    return run


def test_the_example_writes_its_rows_and_a_resumed_run_may_change_trackers(train, tmp_path):
    """Takes over five seconds, because training starts twice."""
    shutil.copy(EXAMPLE, tmp_path)
    status, output = train(EXAMPLE.read_text(), "CsvTracker", "run")
    assert status == 0, output
    with (tmp_path / "run" / "values.csv").open() as file:
        rows = [(int(step), name, float(value)) for step, name, value in csv.reader(file)]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["loss"] for line in lines if "loss" in line}
    assert {step: value for step, name, value in rows if name == "train/loss"} == losses
    assert list(losses) == [1, 2, 3, 4]
    [validation] = [line["validation"] for line in lines if "validation" in line]
    assert (4, "validation/macro/roc_auc", validation["mean_auc"]) in rows
    assert sum(value for _, name, value in rows if name.startswith("draws/")) == 4 * 16
    assert (tmp_path / "run" / "figures" / "validation" / "roc-4.png").stat().st_size > 1000
    status, output = train(RAISES, "Raises", "run")
    assert status == 0, output
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["trackers"] == ["mine.py:Raises"]


def test_a_tracker_that_raises_does_not_end_training(train, tmp_path):
    status, output = train(RAISES, "Raises", "run")
    assert status == 0, output
    line = "tracker 'mine.py:Raises' raised RuntimeError in line 8 of mine.py: it is not called again"
    assert output.count(line) == 1
    assert output.count("raised") == 1
    assert "not to be repeated" not in output
    assert (tmp_path / "run" / "finished.json").exists()


def test_a_tracker_without_log_is_refused_before_training(train, tmp_path):
    status, output = train(NO_LOG, "without_log", "run")
    assert status == 2
    [line] = output.splitlines()
    assert "tracker 'mine.py:without_log' has no method 'log'; expected log(values, step)" in line
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
