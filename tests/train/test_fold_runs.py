"""Runs of a cross-validation: each is trained and tested on its own folds, and together they test each sample once."""

import dataclasses
import json
import shutil
from collections import Counter

import forked_ranks
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from cxr_dist.config.data import DataConfig
from cxr_dist.config.file import load_config
from cxr_dist.data.place import open_manifest
from cxr_dist.errors import EXIT_REFUSED
from cxr_dist.evaluate.compare import compare
from cxr_dist.evaluate.control_features import read_control_features
from cxr_dist.evaluate.controls import shortcut_controls
from cxr_dist.evaluate.predictions import Predictions
from cxr_dist.format.manifest import load_manifest

FLAGS = (  # noqa: SIM905  (a command line reads better)
    "--model.mode image --data.global-batch 16 --data.micro-batch 4 --data.image-size 32 --data.workers 0 "
    "--train.max-steps 2 --train.log-every 1"
).split()
FOLDS = range(3)


def train(fold, shards, out, *more):
    return ("train", "demo", *FLAGS, "--data.shards", shards, "--data.fold", fold, "--out", out, *more)


@pytest.fixture(scope="module")
def runs(fold_shards, tmp_path_factory):
    """Three evaluated runs, one for each test fold; read-only. Training and evaluating them takes about 20 s."""
    folder = tmp_path_factory.mktemp("fold-runs")
    for fold in FOLDS:
        forked_ranks.run(1, "-m", "cxr_dist", *train(fold, fold_shards, folder / f"fold{fold}"))
        forked_ranks.run(1, "-m", "cxr_dist", "evaluate", folder / f"fold{fold}", "--mc-samples", "2")
    return [folder / f"fold{fold}" for fold in FOLDS]


def test_together_the_runs_test_each_sample_once(runs, fold_shards):
    manifest = load_manifest(fold_shards)
    tested = Counter()
    for fold, run in enumerate(runs):
        metrics = json.loads((run / "evaluation/test/metrics.json").read_text())
        assert metrics["metrics"]["n"] == manifest.splits[f"fold{fold}"].samples
        assert metrics["patients_in_training"] == 0
        assert [member["fold"] for member in metrics["members"]] == [fold]
        assert metrics["calibration"]["chosen_on"]["n"] == manifest.splits[f"fold{(fold + 1) % 3}"].samples
        facts = json.loads((run / "trained_on.json").read_text())["facts"]
        assert facts["fold"] == load_config(run / "config.yaml").data.fold == fold
        tested.update(Predictions.read_csv(run / "evaluation/test/predictions.csv").keys)
    assert set(tested.values()) == {1}
    assert len(tested) == sum(split.samples for split in manifest.splits.values())


def test_an_evaluation_of_a_fold_has_the_same_bytes_at_any_number_of_ranks(runs, tmp_path):
    """Takes about 10 s, because each of its commands imports torch."""
    written = {tuple(path.read_bytes() for path in sorted((runs[2] / "evaluation").rglob("*.*")))}
    for size in (2, 3):
        run = shutil.copytree(runs[2], tmp_path / f"ranks{size}", symlinks=True)
        shutil.rmtree(run / "evaluation")
        forked_ranks.run(size, "-m", "cxr_dist", "evaluate", run, "--mc-samples", "2")
        written.add(tuple(path.read_bytes() for path in sorted((run / "evaluation").rglob("*.*"))))
    assert len(written) == 1


def test_a_run_is_not_resumed_with_another_fold(runs, fold_shards, cxr_dist):
    status, _, error = cxr_dist(*train(1, fold_shards, runs[0]))
    assert (status, "data.fold: 0 -> 1" in error) == (EXIT_REFUSED, True)


def test_a_run_whose_configuration_names_another_fold_than_its_checkpoint_is_refused(runs, tmp_path, cxr_dist):
    run = shutil.copytree(runs[0], tmp_path / "run", symlinks=True)
    path = run / "config.yaml"
    path.write_text(path.read_text().replace("fold: 0", "fold: 2"))
    status, _, error = cxr_dist("evaluate", run)
    assert status == EXIT_REFUSED
    assert "data.fold is 2, but the checkpoint of" in error
    assert "was trained with 0: put its config.yaml back" in error


def test_an_ensemble_of_two_folds_is_refused_on_their_own_shards(runs, tmp_path, cxr_dist):
    status, _, error = cxr_dist("evaluate", runs[0], "--ensemble", runs[1], "--out", tmp_path / "mean")
    assert status == EXIT_REFUSED
    assert "the runs of the ensemble have different test folds (0, 1)" in error


def test_shards_of_folds_are_refused_as_other_shards(runs, fold_shards, tmp_path, cxr_dist):
    other = shutil.copytree(fold_shards, tmp_path / "other")
    manifest = load_manifest(other)
    (other / "manifest.json").write_text(dataclasses.replace(manifest, source_sha256="0" * 64).to_json())
    status, _, error = cxr_dist("evaluate", runs[0], "--shards", other, "--name", "other")
    assert (status, "have 3 folds and are not those that the run was trained on" in error) == (EXIT_REFUSED, True)


@pytest.mark.parametrize("command", ["plan", "doctor", "train"])
def test_every_command_asks_for_the_fold(fold_shards, tmp_path, cxr_dist, command):
    flags = ("--data.shards", fold_shards, "--out", tmp_path / "run", *FLAGS)
    status, out, error = cxr_dist(command, "demo", *flags)
    assert status == (1 if command == "doctor" else EXIT_REFUSED)
    assert "add --data.fold with one of 0, 1, 2" in " ".join((out + error).split())
    assert not (tmp_path / "run").exists()


def test_their_comparison_is_one_page_of_all_samples(runs, fold_shards, tmp_path, cxr_dist):
    """Draws the figures of a page, which takes about 10 s."""
    out = tmp_path / "comparison"
    status, printed, error = cxr_dist("compare", *runs, "--out", out, "--with-examples", 1)
    assert status == 0, error
    record = json.loads((out / "comparison.json").read_text())
    (entry,) = record["runs"]
    samples = sum(split.samples for split in load_manifest(fold_shards).splits.values())
    assert (entry["name"], record["samples"]) == ("demo (3 folds)", samples)
    assert entry["metrics"]["macro_roc_auc"]["low"] < entry["metrics"]["macro_roc_auc"]["value"]
    assert f"{samples} test images" in printed
    page = (out / "report.html").read_text()
    assert page.count("data:image/jpeg") >= 2  # the most uncertain and the most wrong case, from any fold
    assert "Fold 2" in page
    status, _, error = cxr_dist("compare", *runs[:2], "--out", tmp_path / "less")
    assert status == EXIT_REFUSED
    assert "the samples of test fold 2 would have no prediction" in error
    assert not (tmp_path / "less").exists()


def test_the_controls_of_the_pooled_runs_are_trained_anew_for_each_fold(runs, fold_shards):
    comparison = compare(runs, n_bootstrap=10)
    (pooled,) = comparison.runs
    found = shortcut_controls(runs, [pooled], "test", None, n_bootstrap=10)
    scores = []
    for fold in FOLDS:
        data = DataConfig(shards=str(fold_shards), fold=fold)
        training, test = (read_control_features(data, open_manifest(data), split) for split in ("train", "test"))
        scaler = StandardScaler().fit(training.thumbnails)
        model = LogisticRegression(max_iter=2000).fit(scaler.transform(training.thumbnails), training.labels[:, 0])
        scores.append(model.predict_proba(scaler.transform(test.thumbnails)))
    truth = pooled.predictions.labels[:, 0]
    assert found.reason == ""
    assert found.rows[-1].evaluation["metrics"]["n"] == len(truth)
    auc = roc_auc_score(truth, np.concatenate(scores), multi_class="ovr", average="macro")
    assert found.rows[-1].estimate("macro", "roc_auc").value == pytest.approx(auc)
    assert shortcut_controls(runs, [pooled], "test", None, n_bootstrap=10) == found  # kept in the first run's folder
    alone = compare(runs[:1], n_bootstrap=10).runs
    assert shortcut_controls(runs[:1], alone, "test", None, 10).rows[0].evaluation["metrics"]["n"] < len(truth)
