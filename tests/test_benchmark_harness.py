"""The code that all benchmarks share: flags, the order of turns, and result files."""

import importlib
import json
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from benchmarks import harness

MODULES = sorted((harness.ROOT / "benchmarks").rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(harness.ROOT)))
def test_every_benchmark_module_can_be_imported(path):
    importlib.import_module(".".join(path.relative_to(harness.ROOT).with_suffix("").parts))


def test_flags_have_the_types_of_their_defaults(monkeypatch):
    given = ["prog", "--micro-batch", "8", "--sides", "1", "2", "--no-compile", "--limit", "1.5"]
    monkeypatch.setattr("sys.argv", given)
    defaults = {"micro_batch": 4, "sides": [256], "compile": True, "limit": (4.0, "GiB"), "folder": Path}
    options = vars(harness.arguments("Measure nothing.", **defaults))
    assert options == {"micro_batch": 8, "sides": [1, 2], "compile": False, "limit": 1.5, "folder": None}


def test_ways_take_turns_in_alternating_order_after_warming_up():
    calls = []
    ways = {name: lambda name=name: calls.append(name) or len(calls) for name in "abc"}
    results = harness.in_turns(ways, 2, warm_up=1)
    assert "".join(calls[3:]) == "abccba"
    assert sorted(calls[:3]) == ["a", "b", "c"]
    assert results == {"a": [4, 9], "b": [5, 8], "c": [6, 7]}


@pytest.mark.parametrize(("device", "file"), [("cpu", "example.json"), ("cuda", "example-cuda.json")])
def test_a_result_holds_description_options_and_machine_but_no_path(monkeypatch, tmp_path, device, file):
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    options = Namespace(turns=2, folder=tmp_path, shards=None)
    harness.write_result("example", "an example", options, torch.device(device), seconds=[1.0])
    result = json.loads((tmp_path / file).read_text())
    assert list(result) == ["what", "options", "device", "seconds", "machine"]
    assert result["options"] == {"turns": 2}
    assert result["device"] == device
    assert {"date", "processor", "gpu", "versions"} <= result["machine"].keys()
