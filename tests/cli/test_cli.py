"""The command line: help is fast, bad input gives one line and exit status 2, and nothing is lost."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from shard_server import serving

SMALL = (
    "--data.global-batch",
    "16",
    "--data.micro-batch",
    "8",
    "--data.image-size",
    "32",
    "--data.max-tokens",
    "16",
)


def test_help_names_every_command_and_needs_no_torch():
    code = "import sys; sys.argv = ['cxr-dist', '--help']\nfrom cxr_dist.cli.main import main\nmain()\n"
    code += "assert not {'torch', 'transformers', 'webdataset'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for command in ("shard", "verify", "fetch", "plan", "train", "evaluate", "compare", "predict", "export"):
        assert f"\n  {command} " in done.stdout
    assert "not for clinical use" in done.stdout


@pytest.mark.parametrize("command", ["shard", "verify", "fetch", "evaluate", "compare", "predict", "export"])
def test_each_command_explains_its_arguments(cxr_dist, command):
    status, out, _ = cxr_dist(command, "--help")
    assert status == 0
    assert f"usage: cxr-dist {command}" in out


def test_train_help_documents_the_fields(cxr_dist):
    status, out, _ = cxr_dist("train", "enhanced", "--help")
    assert status == 0
    for field in (
        "--data.shards",
        "--data.global-batch",
        "--model.text-encoder",
        "--train.max-steps",
        "--precision",
    ):
        assert field in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("trian",), "unknown command 'trian' (did you mean 'train'?); expected one of: recipes, init, shard"),
        (
            ("train", "enhance"),
            "unknown run 'enhance' (did you mean 'enhanced'?); expected one of: baseline, enhanced",
        ),
        (("train", "demo"), "no shards are given: add --data.shards SHARDS, a folder that `cxr-dist shard"),
        (("evaluate", "nowhere"), "no config.yaml in nowhere: that is not a run folder"),
    ],
)
def test_bad_input_is_one_line_and_exit_status_2(cxr_dist, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, _, err = cxr_dist(*arguments)
    assert status == 2
    assert err.startswith("cxr-dist: ")
    assert message in err
    assert not list(tmp_path.iterdir())


def test_a_bad_value_is_refused_by_the_parser(cxr_dist):
    status, _, err = cxr_dist("train", "demo", "--data.global-batch", "30")
    assert status == 2
    assert err == "cxr-dist: data.global_batch 30 is not a multiple of data.micro_batch 16: choose e.g. 32\n"


def test_a_text_section_that_the_shards_lack_is_refused(cxr_dist, tiny_shards, tmp_path):
    arguments = ("--data.shards", tiny_shards, "--data.text-sections", "summary", "--out", tmp_path / "run")
    status, _, err = cxr_dist("train", "demo", *arguments)
    assert status == 2
    assert "no text section 'summary'; set --data.text-sections to some of: " in err
    assert not (tmp_path / "run").exists()


def test_missing_weights_say_how_to_get_them(cxr_dist, tiny_shards, tmp_path, monkeypatch):
    monkeypatch.setenv("CXR_DIST_WEIGHTS", str(tmp_path / "bundle"))
    for run in ("baseline", "enhanced"):
        arguments = ("--data.shards", tiny_shards, "--out", tmp_path / run, "--data.global-batch", "16")
        assert cxr_dist("plan", run, *arguments)[0] == 2
        status, _, err = cxr_dist("train", run, *arguments)
        assert status == 2
        assert "run `cxr-dist fetch` on a machine with network" in err
        assert "--model.pretrained false" in err
        assert not (tmp_path / run).exists()


@pytest.fixture(scope="module")
def run_dir(tiny_shards, tmp_path_factory):
    """Return a short fused run, trained from the command line."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    command = [
        sys.executable,
        "-m",
        "cxr_dist",
        "train",
        "demo",
        "--data.shards",
        tiny_shards,
        "--out",
        folder,
    ]
    command += [*SMALL, "--train.epochs", "1"]
    subprocess.run(list(map(str, command)), check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return folder


def test_an_ensemble_needs_a_folder_and_each_run_once(cxr_dist, run_dir, tmp_path):
    status, _, err = cxr_dist("evaluate", run_dir, "--ensemble", tmp_path / "other")
    assert status == 2
    assert "an ensemble needs both: --ensemble RUN_DIR … and --out DIR" in err
    status, _, err = cxr_dist("evaluate", run_dir, "--ensemble", run_dir, "--out", tmp_path / "ensemble")
    assert status == 2
    assert "a run is in the ensemble twice" in err
    assert not (tmp_path / "ensemble").exists()


def test_all_commands_from_plan_to_report_page(cxr_dist, run_dir, tiny_shards, tmp_path):
    status, out, _ = cxr_dist("plan", "demo", "--data.shards", tiny_shards, *SMALL)
    assert status == 0
    assert "legal world sizes           1, 2" in out
    assert re.search(r"read by each node +at most \d+ shards \(\d\.\d MB\) on 1, \d+ shards", out)
    assert "draws of Normal" in out
    assert "weight of Nodule" in out

    status, _, _ = cxr_dist("evaluate", run_dir, "--mc-samples", "4")
    assert status == 0
    metrics = json.loads((run_dir / "evaluation" / "test" / "metrics.json").read_text())
    assert metrics["made_data"] is True
    assert metrics["text_sections"] == ["indication", "findings"]
    assert metrics["metrics"]["uncertainty"]["passes"] == 4

    second = shutil.copytree(run_dir, tmp_path / "again", symlinks=True)
    status, out, _ = cxr_dist("compare", run_dir, second, "--out", tmp_path / "comparison")
    assert status == 0
    comparison = json.loads((tmp_path / "comparison" / "comparison.json").read_text())
    assert {"value", "low", "high"} <= set(comparison["runs"][0]["metrics"]["macro_roc_auc"])
    assert "not for clinical use" in (tmp_path / "comparison" / "report.html").read_text()
    status, _, said = cxr_dist("compare", second, "--out", tmp_path / "comparison")
    assert (status, "replace it with --overwrite" in said) == (2, True)
    assert cxr_dist("compare", second, "--out", tmp_path / "comparison", "--overwrite")[0] == 0


def test_shards_that_moved_to_a_url_give_the_same_bytes(cxr_dist, run_dir, tiny_shards, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("SLURM_TMPDIR", raising=False)
    metrics, found = run_dir / "evaluation" / "val" / "metrics.json", []
    with serving(tiny_shards) as server:
        for place in ([], ["--shards", server.http]):
            assert cxr_dist("evaluate", run_dir, "--split", "val", "--mc-samples", "2", *place)[0] == 0
            found.append(metrics.read_bytes())
        assert server.requests["val-00000.tar"]
        out = ["--out", tmp_path / "comparison", "--shards", server.http]
        status, said, _ = cxr_dist("compare", run_dir, "--split", "val", *out, "--with-examples", "1")
    assert found[0] == found[1]
    assert (status, "holds patient data" in said) == (0, True)


def test_the_same_run_folder_with_other_settings_is_refused(cxr_dist, run_dir, tiny_shards):
    before = (run_dir / "metrics.jsonl").read_bytes()
    arguments = ("--data.shards", tiny_shards, "--out", run_dir, *SMALL, "--train.epochs", "3")
    status, _, err = cxr_dist("train", "demo", *arguments)
    assert status == 2
    assert "train.epochs: 1 -> 3" in err
    assert (run_dir / "metrics.jsonl").read_bytes() == before


def test_damaged_shards_stop_training_and_fail_verify(cxr_dist, tiny_shards, tmp_path):
    shards = shutil.copytree(tiny_shards, tmp_path / "shards")
    victim = shards / "train-00000.tar"
    victim.write_bytes(victim.read_bytes()[:-5000])
    status, out, _ = cxr_dist("verify", shards)
    assert status == 1
    assert "train-00000.tar" in out
    status, _, err = cxr_dist("train", "demo", "--data.shards", shards, "--out", tmp_path / "run", *SMALL)
    assert status == 2
    assert "train-00000.tar has" in err
    assert cxr_dist("verify", tiny_shards)[0] == 0
