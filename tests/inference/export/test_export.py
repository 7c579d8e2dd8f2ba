"""What `cxr-dist export` writes, what the export must not hold, and what is refused."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest

import cxr_dist
from cxr_dist.cli.main import main
from cxr_dist.errors import UserError
from cxr_dist.inference import onnx as graph
from cxr_dist.inference.export import export
from cxr_dist.run.folder import mark_finished


def test_an_export_holds_neither_local_paths_nor_patient_data(source, secrets, run_dir, exported):
    words = [*secrets.values(), str(source), str(run_dir.parent), str(Path(cxr_dist.__file__).parents[1])]
    files = [path for path in exported.rglob("*") if path.is_file()]
    assert len({path.stat().st_mode for path in files}) == 1  # whoever can read one file can read all
    assert {path.suffix for path in files} == {".json", ".safetensors", ".onnx", ".md", ""}
    for path in files:
        content = path.read_bytes().lower()
        assert not [word for word in words if word.lower().encode() in content], path.name


def test_the_model_card_has_the_metrics_and_the_counts(run_dir, exported):
    card = huggingface_hub.ModelCard.load(exported / "README.md")
    assert 'print(model.predict("image.png", report={"notes": "…"}))' in card.text
    metrics = json.loads((run_dir / "evaluation" / "test" / "metrics.json").read_text())["metrics"]
    values = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert values["accuracy"] == round(metrics["accuracy"], 4)
    assert values["roc_auc"] == round(metrics["macro"]["roc_auc"], 4)
    assert card.data.library_name == "cxr_dist"
    assert "Research software, not for clinical use" in card.text
    assert f"| test | {metrics['n']} | {metrics['patients']} |" in card.text
    assert "The model reads these report sections: notes" in card.text
    assert "No report-only run is compared" in card.text


def test_the_model_card_marks_unfinished_training(run_dir, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(run_dir, run, symlinks=True)
    (run / "finished.json").unlink(missing_ok=True)
    for name, expected in (("cut", True), ("whole", False)):
        export(run, tmp_path / name, with_onnx=False)
        assert ("Training had not finished when this" in (tmp_path / name / "README.md").read_text()) == expected
        mark_finished(run, 2)


def test_the_same_run_gives_the_same_bytes_and_sha256sum_agrees(run_dir, tmp_path):
    for name in ("one", "two"):
        export(run_dir, tmp_path / name, with_onnx=False)
    for path in (tmp_path / "one").rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path / "one", check=True)


def test_files_in_out_are_never_changed(run_dir, tmp_path):
    (tmp_path / "thesis.tex").write_text("chapter")
    with pytest.raises(UserError, match="exists already: remove it, or choose another --out"):
        export(run_dir, tmp_path, with_onnx=False)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_graph_that_differs_from_the_network_is_not_exported(run_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(graph, "TOLERANCE", -1.0)
    with pytest.raises(UserError, match="differs from the network"):
        export(run_dir, tmp_path / "model", with_onnx=True)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_no_files(run_dir, full_disk):
    with pytest.raises(UserError, match="no space left to write model"):
        export(run_dir, full_disk / "model", with_onnx=False)
    assert not list(full_disk.iterdir())


def test_runs_that_cannot_be_exported_are_refused(source, run_dir, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(run_dir, run, symlinks=True)
    with pytest.raises(UserError, match="the shards are not those that the run was trained on"):
        export(run, tmp_path / "model", with_onnx=False, shards=str(source / "multilabel-shards"))
    metrics = run / "evaluation" / "test" / "metrics.json"
    metrics.write_text(metrics.read_text().replace('"checkpoint_step": 7', '"checkpoint_step": 5'))
    with pytest.raises(UserError, match=r"is of step 5 .* is of step 7: run `cxr-dist evaluate"):
        export(run, tmp_path / "model", with_onnx=False)
    shutil.rmtree(run / "checkpoints")
    (run / "best").unlink()
    with pytest.raises(UserError, match="has no checkpoint yet"):
        export(run, tmp_path / "model", with_onnx=False)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_the_commands_export_and_predict_work_together(run_dir, cases_of, tmp_path, monkeypatch, capsys):
    image, report = next(iter(cases_of("multiclass").values()))
    picture = tmp_path / "picture.png"
    for arguments in (
        ["export", run_dir, "--out", tmp_path / "model", "--onnx", "false"],
        [
            "predict",
            tmp_path / "model",
            "--image",
            image,
            "--report",
            report,
            "--mc-samples",
            "0",
            "--out",
            picture,
        ],
    ):
        monkeypatch.setattr(sys, "argv", ["cxr-dist", *map(str, arguments)])
        main()
    assert '"probability"' in capsys.readouterr().out
    assert picture.is_file()
    assert "SHA256SUMS" in {path.name for path in (tmp_path / "model").iterdir()}
