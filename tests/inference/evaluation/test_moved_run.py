"""A run folder is used after it was moved and its shards were deleted."""

import json
import shutil

import pytest
import yaml

from cxr_dist.format.manifest import load_manifest
from cxr_dist.run.trained_on import MANIFEST_COPY, TRAINED_ON

SETTINGS = (  # noqa: SIM905  (a command line reads better)
    "--data.global-batch 16 --data.micro-batch 16 --data.image-size 32 --data.max-tokens 32 --data.workers 0 "
    "--train.max-steps 1 --train.epochs 1 --model.fusion-dim 16 --model.fusion-heads 2"
).split()


@pytest.fixture
def moved(cxr_dist, tiny_shards, tmp_path, monkeypatch):
    """A trained run that was moved, and whose shards were deleted; the working directory is another one."""
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    shutil.copytree(tiny_shards, "shards")
    status, _, error = cxr_dist("train", "demo", *SETTINGS, "--data.shards", "shards", "--out", "run")
    assert status == 0, error
    assert yaml.safe_load((tmp_path / "there/run/config.yaml").read_text())["data"]["shards"] == str(
        tmp_path / "there/shards"
    )
    status, _, error = cxr_dist("evaluate", "run", "--mc-samples", "0")
    assert status == 0, error
    (tmp_path / "here").mkdir()
    shutil.move("run", tmp_path / "here" / "moved")
    shutil.rmtree("shards")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here" / "moved"


def test_a_moved_run_predicts_exports_and_is_evaluated_without_its_shards(
    cxr_dist, moved, tiny_shards, other_shards, image_file
):
    """Takes about 10 s, because the run is trained, evaluated and exported by the commands."""
    status, _, error = cxr_dist("predict", "moved", "--image", image_file, "--no-report", "--mc-samples", "0")
    assert status == 0, error
    status, _, error = cxr_dist("export", "moved", "--onnx", "false")
    assert status == 0, error
    card = (moved / "export" / "README.md").read_text()
    train = load_manifest(tiny_shards).splits["train"]
    assert f"| train | {train.samples} | {train.patients} |" in card  # from the run folder
    other = other_shards("seed: 0", "seed: 5")
    status, _, error = cxr_dist("evaluate", "moved", "--shards", other, "--name", "other", "--mc-samples", "0")
    assert status == 0, error
    evaluated = json.loads((moved / "evaluation" / "other" / "metrics.json").read_text())
    assert evaluated["calibration"]["chosen_on"]["source"] == "own validation"
    assert evaluated["patients_in_training"] is None
    status, _, error = cxr_dist("compare", "moved", "--out", "page")
    assert status == 0, error
    status, _, error = cxr_dist("evaluate", "moved")
    assert status == 2
    assert "no manifest.json in" in error
    assert "--data.shards" not in error


def test_a_run_of_an_earlier_version_needs_its_shards(
    cxr_dist, a_run, image_file, tiny_shards, other_shards, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    shards = shutil.copytree(tiny_shards, tmp_path / "shards")
    run = a_run(shards=shards)
    (run / TRAINED_ON).unlink()
    (run / MANIFEST_COPY).unlink()
    assert cxr_dist("predict", run, "--image", image_file, "--mc-samples", "0")[0] == 0
    shutil.rmtree(shards)
    other = other_shards("seed: 0", "seed: 5")
    for command in (("predict", run, "--image", image_file), ("evaluate", run, "--shards", other, "--name", "x")):
        status, _, error = cxr_dist(*command)
        assert status == 2
        assert "was trained by an earlier version" in error
        assert "holds no shards: put them back there" in error
        assert "--data.shards" not in error
    status, _, error = cxr_dist("evaluate", run, "--shards", tiny_shards, "--mc-samples", "0")  # its own, moved
    assert status == 0, error
    shutil.copytree(other, shards)
    status, _, error = cxr_dist("predict", run, "--image", image_file)
    assert status == 2
    assert "holds other shards" in error
