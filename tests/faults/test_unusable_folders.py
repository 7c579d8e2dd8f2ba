"""A folder that cannot be read or written ends every command in one line, before any long work."""

from pathlib import Path

import pytest
from bad_files import FILM, FLAGS

from cxr_dist.errors import refusal

WORDS = ("Read-only file system", "Permission denied")


def commands(run, shards, out):
    """Commands that write to `out`, a folder or a file that does not exist yet."""
    case = ("--image", FILM, "--no-report", "--mc-samples", 0)
    many = ("--input", FILM.parent, "--no-report", "--mc-samples", 0)
    return {
        "train": ("train", "demo", "--data.shards", shards, *FLAGS, "--out", out),
        "evaluate": ("evaluate", run, "--mc-samples", 0),
        "compare": ("compare", run, "--out", out),
        "export": ("export", run, "--onnx", "false", "--out", out),
        "predict": ("predict", run, *case, "--out", f"{out}.png"),
        "predict --input": ("predict", run, *many, "--out", out),
        "shard": ("shard", shards.parent / "recipe.yaml", "--workers", 1, "--out", out),
        "fetch": ("fetch", "--out", out),
    }


COMMANDS = tuple(commands(Path(), Path(), Path()))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_read_only_folder_is_refused(run_copy, tiny_shards, read_only, cxr_dist, tried, command):
    read_only(run_copy)
    status, _, err = cxr_dist(*commands(run_copy, tiny_shards, run_copy / "out")[command])
    assert status == 2
    assert any(words in err for words in WORDS)
    assert err.count("\n") == 1
    tried(f"a read-only folder for {command}", "refused in one line")


def test_a_run_is_not_evaluated_for_a_folder_that_cannot_be_written(run_copy, read_only, cxr_dist, monkeypatch):
    read_only(run_copy)
    monkeypatch.setattr("cxr_dist.inference.evaluation.predict_split", lambda *_, **__: pytest.fail("it predicts"))
    assert cxr_dist("evaluate", run_copy, "--mc-samples", 0)[0] == 2


def test_a_read_only_run_can_be_resumed_by_nobody_and_read_by_all(run_copy, tiny_shards, read_only, cxr_dist, tmp_path):
    read_only(run_copy)
    before = sorted(run_copy.rglob("*"))
    status, _, err = cxr_dist("train", "demo", "--data.shards", tiny_shards, *FLAGS, "--out", run_copy)
    assert (status, err.count("\n")) == (2, 1)
    assert f"cannot read or write {run_copy}: " in err
    for command in ("compare", "export", "predict"):
        said = cxr_dist(*commands(run_copy, tiny_shards, tmp_path / command)[command])
        assert said[0] == 0, said
    assert sorted(run_copy.rglob("*")) == before


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in ("evaluate", "predict")])
def test_a_file_is_not_taken_for_a_folder(run_copy, tiny_shards, tmp_path, cxr_dist, tried, command):
    file = tmp_path / "file"
    file.write_text("kept")
    for out in (file, file / "below"):
        status, _, err = cxr_dist(*commands(run_copy, tiny_shards, out)[command])
        assert status == 2
        assert err.startswith("cxr-dist: ")
        assert err.count("\n") == 1
    assert file.read_text() == "kept"
    tried(f"a file as the folder of {command}", "refused in one line")


@pytest.mark.parametrize("argument", ["--data.shards", "--out"])
def test_a_name_that_no_file_system_takes_is_refused(tiny_shards, tmp_path, cxr_dist, tried, argument):
    places = {"--data.shards": tiny_shards, "--out": tmp_path / "run"} | {argument: tmp_path / ("x" * 300)}
    status, _, err = cxr_dist("train", "demo", *(part for place in places.items() for part in place), *FLAGS)
    assert status == 2
    assert "File name too long" in err
    assert err.count("\n") == 1
    tried(f"a name of 300 characters for {argument}", "refused in one line")


def test_a_path_is_named_as_it_was_typed_and_nothing_below_it(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["cxr-dist", "shard", f"--source={tmp_path}"])
    error = PermissionError(13, "Permission denied", str(tmp_path / "Featherstonehaugh" / "1.png"))
    assert str(refusal(error)).startswith(f"cannot read or write {tmp_path}: Permission denied; change its permissions")
    assert refusal(PermissionError(13, "Permission denied", "/of/the/installation")) is None
    assert refusal(OSError(5, "Input/output error", str(tmp_path))) is None  # may pass: a job is requeued after it
