"""Out-of-fold predictions of a cross-validation are pooled into one result that holds each sample once."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from made_folds import make_fold_runs
from made_runs import make_predictions, make_run
from sklearn.metrics import accuracy_score, log_loss, precision_score, recall_score, roc_auc_score

from cxr_dist.errors import UserError
from cxr_dist.evaluate.compare import compare
from cxr_dist.evaluate.intervals import intervals
from cxr_dist.evaluate.metrics import strict_json
from cxr_dist.evaluate.predictions import Predictions
from cxr_dist.format.manifest import load_manifest
from cxr_dist.report.comparison_file import refuse_other_comparison, write_comparison

PREDICTIONS = make_predictions(n=90, passes=2)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three evaluated runs of one configuration, one for each fold; read-only."""
    return make_fold_runs(tmp_path_factory.mktemp("cv"), PREDICTIONS)


@pytest.fixture
def copied(runs: list[Path], tmp_path: Path) -> list[Path]:
    folder = shutil.copytree(runs[0].parent, tmp_path / "cv")
    for run in runs:
        path = folder / run.name / "config.yaml"
        path.write_text(path.read_text().replace(str(runs[0].parent), str(folder)))
    return [folder / run.name for run in runs]


def test_the_pooled_metrics_are_those_of_scikit_learn_on_all_samples(runs: list[Path]) -> None:
    (pooled,) = compare([runs[2], runs[0], runs[1]], n_bootstrap=50).runs
    parts = [Predictions.read_csv(run / "evaluation/test/predictions.csv") for run in runs]
    assert pooled.predictions.keys == [key for part in parts for key in part.keys]
    assert sorted(pooled.predictions.keys) == sorted(PREDICTIONS.keys)
    labels = np.concatenate([part.labels for part in parts])[:, 0]
    probabilities = np.concatenate([part.probabilities for part in parts])  # calibrated, each fold by its own
    assert any(part.uncalibrated is not None for part in parts)
    auc = roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
    assert pooled.estimate("macro", "roc_auc").value == pytest.approx(auc)
    assert pooled.estimate("accuracy").value == pytest.approx(accuracy_score(labels, probabilities.argmax(axis=1)))
    assert pooled.estimate("log_loss").value == pytest.approx(log_loss(labels, probabilities))
    assert pooled.evaluation["calibration"]["after"]["log_loss"] == pytest.approx(log_loss(labels, probabilities))
    bounds = intervals(pooled.predictions, 50)["macro"]["roc_auc"]  # over the patients of all folds
    estimate = pooled.estimate("macro", "roc_auc")
    assert (estimate.low, estimate.high) == (bounds["low"], bounds["high"])
    assert pooled.predictions.mc is not None
    assert pooled.metrics["patients"] == len(set(PREDICTIONS.patients))
    assert pooled.name == "r (3 folds)"


def test_folds_without_calibration_give_the_metrics_of_one_split_with_all_samples(tmp_path: Path) -> None:
    """The answer is known beforehand: the same predictions, evaluated as one split."""
    runs = make_fold_runs(tmp_path / "cv", PREDICTIONS, calibrated=False)
    (pooled,) = compare(runs, n_bootstrap=20).runs
    whole = make_run(tmp_path / "whole", PREDICTIONS)
    expected = json.loads((whole / "evaluation/test/metrics.json").read_text())["metrics"]
    assert pooled.evaluation["calibration"] is None
    for path in (("macro", "roc_auc"), ("balanced_accuracy",), ("brier",), ("log_loss",)):
        value = expected
        for key in path:
            value = value[key]
        assert pooled.estimate(*path).value == pytest.approx(value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((0, 2), r"r \(2 folds\) has runs for 2 of 3 folds, so the samples of test fold 1 would have no prediction"),
        ((0, 1, 2, 1), "fold1 and again are runs of one configuration with the same test fold 1"),
    ],
)
def test_a_missing_and_a_repeated_fold_are_refused(copied: list[Path], given: tuple[int, ...], message: str) -> None:
    again = shutil.copytree(copied[1], copied[1].parent / "again")
    folders = [again if place > 2 else copied[fold] for place, fold in enumerate(given)]
    with pytest.raises(UserError, match=message):
        compare(folders, n_bootstrap=10)


def test_a_sample_that_two_runs_predicted_is_refused(copied: list[Path]) -> None:
    path = copied[0] / "evaluation/test/predictions.csv"
    predictions = Predictions.read_csv(path)
    other = Predictions.read_csv(copied[1] / "evaluation/test/predictions.csv")
    dataclasses.replace(predictions, keys=[other.keys[0], *predictions.keys[1:]]).write_csv(path)
    with pytest.raises(UserError, match=r"1 samples of r \(3 folds\) were predicted by more than one run"):
        compare(copied, n_bootstrap=10)


def test_a_sample_without_a_prediction_is_refused(copied: list[Path]) -> None:
    folder = copied[0] / "evaluation/test"
    predictions = Predictions.read_csv(folder / "predictions.csv").select(np.arange(1, 20))
    predictions.write_csv(folder / "predictions.csv")
    facts = json.loads((folder / "metrics.json").read_text())
    facts["metrics"]["n"] = len(predictions)
    (folder / "metrics.json").write_text(strict_json(facts))
    total = sum(split.samples for split in load_manifest(copied[0].parent / "shards").splits.values())
    with pytest.raises(UserError, match=rf"predict \d+ of the {total} samples of their shards"):
        compare(copied, n_bootstrap=10)


def test_runs_of_one_fold_are_compared_as_they_are(copied: list[Path]) -> None:
    again = shutil.copytree(copied[1], copied[1].parent / "again")
    assert [run.name for run in compare([copied[1], again], n_bootstrap=10).runs] == ["fold1", "again"]
    assert [run.name for run in compare([copied[1]], n_bootstrap=10).runs] == ["fold1"]


def test_two_configurations_are_compared_on_the_pooled_samples(tmp_path: Path) -> None:
    weak = make_predictions(n=90, passes=0, skill=0.3, seed=1)
    runs = make_fold_runs(tmp_path, PREDICTIONS, name="a-fold", recipe="a")
    runs += make_fold_runs(tmp_path, weak, name="b-fold", recipe="b", loss="focal")
    comparison = compare([*runs[3:], *runs[:3]], n_bootstrap=20)
    assert [run.name for run in comparison.runs] == ["b (3 folds)", "a (3 folds)"]
    difference = comparison.differences[1]["macro_roc_auc"]
    values = [run.estimate("macro", "roc_auc").value for run in comparison.runs]
    assert difference.value == pytest.approx(values[1] - values[0])
    assert difference.value > 0.1


def test_the_folder_of_a_comparison_has_the_pooled_predictions(runs: list[Path], tmp_path: Path) -> None:
    comparison, out = compare(runs, n_bootstrap=10), tmp_path / "comparison"
    out.mkdir()
    write_comparison(comparison, out)
    refuse_other_comparison(out, runs, "test")
    with pytest.raises(UserError, match="holds the comparison of"):
        refuse_other_comparison(out, runs[:2], "test")
    (entry,) = json.loads((out / "comparison.json").read_text())["runs"]
    assert entry["out_of_fold"] == {
        "folds": 3,
        "runs": ["fold0", "fold1", "fold2"],
        "folder": "out_of_fold/1-r-3-folds",
    }
    folder = out / entry["out_of_fold"]["folder"]
    assert folder.stat().st_mode & 0o77 == 0
    stored = Predictions.read_csv(folder / "predictions.csv")
    assert stored.keys == comparison.runs[0].predictions.keys
    np.testing.assert_array_equal(stored.probabilities, comparison.runs[0].predictions.probabilities)
    assert json.loads((folder / "metrics.json").read_text())["metrics"]["n"] == 90


def test_operating_points_judge_each_sample_at_the_threshold_of_its_own_run(runs: list[Path]) -> None:
    (pooled,) = compare(runs, n_bootstrap=10).runs
    facts = [json.loads((run / "evaluation/test/metrics.json").read_text())["operating_points"] for run in runs]
    parts = [Predictions.read_csv(run / "evaluation/test/predictions.csv") for run in runs]
    points = pooled.evaluation["operating_points"]["per_class"]
    for index, name in enumerate(PREDICTIONS.classes):
        thresholds = [each["per_class"][name]["threshold"] for each in facts]
        assert points[name]["thresholds"] == thresholds
        said = np.concatenate([p.probabilities[:, index] >= t for p, t in zip(parts, thresholds, strict=True)])
        truth = np.concatenate([part.labels[:, 0] for part in parts]) == index
        applied = points[name]["applied"]
        assert applied["recall"]["value"] == pytest.approx(recall_score(truth, said))
        assert applied["precision"]["value"] == pytest.approx(precision_score(truth, said))
        assert applied["recall"]["low"] < applied["recall"]["high"]


def test_blocks_of_one_model_are_not_those_of_the_pooled_runs(copied: list[Path]) -> None:
    path = copied[0] / "evaluation/test/metrics.json"
    facts = json.loads(path.read_text())
    path.write_text(strict_json(facts | {"audit": {"statement": "of fold 0 alone"}}))
    (pooled,) = compare(copied, n_bootstrap=10).runs
    assert "audit" not in pooled.evaluation
    assert not pooled.evaluation.get("conformal")
