"""A run folder belongs to one configuration, and its metrics contain each step once."""

import dataclasses
import json
import stat

import pytest

from cxr_dist.config.file import load_config
from cxr_dist.config.named import named_run
from cxr_dist.errors import UserError
from cxr_dist.run.folder import MetricsLog, open_run_folder


def test_another_configuration_is_refused_and_the_differences_are_shown(tmp_path):
    folder, config = tmp_path / "run", named_run("demo")
    open_run_folder(folder, config)
    before = (folder / "config.yaml").read_bytes()
    other = dataclasses.replace(config, seed=7, optim=dataclasses.replace(config.optim, lr=0.5))
    with pytest.raises(UserError, match=r"another configuration:\n  optim.lr: 0.002 -> 0.5\n  seed: 42 -> 7\nchoose"):
        open_run_folder(folder, other)
    assert (folder / "config.yaml").read_bytes() == before
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_settings_that_do_not_change_results_may_change(tmp_path):
    folder, config = tmp_path / "run", named_run("demo")
    open_run_folder(folder, config)
    data = dataclasses.replace(config.data, workers=9, shards="moved")
    open_run_folder(folder, dataclasses.replace(config, data=data, parallel="zero1"))
    assert "workers: 9" in (folder / "config.yaml").read_text()


def test_paths_are_stored_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = named_run("demo")
    data = dataclasses.replace(config.data, shards="data/shards")
    model = dataclasses.replace(config.model, weights="weights")
    relative = dataclasses.replace(config, data=data, model=model)
    open_run_folder(tmp_path / "run", relative)
    stored = load_config(tmp_path / "run" / "config.yaml")
    assert stored.data.shards == str(tmp_path / "data" / "shards")
    assert stored.model.weights == str(tmp_path / "weights")
    open_run_folder(tmp_path / "run", relative)  # resuming with the same relative paths
    for url in ("s3://bucket/shards", ""):
        remote = dataclasses.replace(config, data=dataclasses.replace(data, shards=url))
        open_run_folder(tmp_path / "other", remote)
        assert load_config(tmp_path / "other" / "config.yaml").data.shards == url


def test_a_folder_with_other_files_is_refused_and_not_changed(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="is not empty and holds no run: choose another --out"):
        open_run_folder(tmp_path, named_run("demo"))
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_resumed_log_drops_later_steps_and_an_incomplete_line(tmp_path):
    log = MetricsLog(tmp_path, 0)
    for step in range(1, 6):
        log.write({"step": step, "loss": 1 / step})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    log = MetricsLog(tmp_path, 3)
    log.write({"step": 4, "loss": 9.0})
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert lines[-1]["loss"] == 9.0
