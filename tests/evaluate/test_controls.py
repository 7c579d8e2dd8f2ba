"""The shortcut controls find a shortcut that is there, and equal scikit-learn's logistic regressions."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from made_runs import make_predictions, make_run
from made_shards import write_one_sided_shards
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.preprocessing import StandardScaler

from cxr_dist.config.data import DataConfig
from cxr_dist.evaluate.compare import Comparison, compare
from cxr_dist.evaluate.control_features import ControlFeatures, read_control_features
from cxr_dist.evaluate.controls import CACHE, shortcut_controls, train_controls
from cxr_dist.evaluate.predictions import Predictions
from cxr_dist.files import sha256_of
from cxr_dist.format.manifest import load_manifest
from cxr_dist.report.page import render_page

VIEW, THUMBNAILS = "view, age and sex", "thumbnails of 16×16 pixels"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What shows the class -> shards of 300 images."""
    return {name: write_one_sided_shards(tmp_path_factory.mktemp(name), name, 300) for name in ("view", "image")}


def features_of(folder: Path, split: str) -> ControlFeatures:
    return read_control_features(DataConfig(shards=str(folder)), load_manifest(folder), split)


def evaluated_run(folder: Path, shards: Path) -> Path:
    """A made run that was evaluated on the test split of these shards."""
    test = features_of(shards, "test")
    made = make_predictions(n=len(test.keys), classes=("Clear", "Dense"), passes=0)
    predictions: Predictions = dataclasses.replace(
        made, keys=test.keys, patients=test.patients, labels=test.labels, attributes={}
    )
    run = make_run(folder, predictions, made_data=False)
    digest = sha256_of(shards / "manifest.json")
    for file in (run / "environment.json", run / "evaluation" / "test" / "metrics.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"manifest_sha256": digest}))
    config = run / "config.yaml"
    config.write_text(config.read_text().replace(str(folder.parent / "shards"), str(shards)))
    return run


def compared(run: Path, shards: str | None = None) -> Comparison:
    comparison = compare([run], n_bootstrap=20)
    found = shortcut_controls([run], comparison.runs, "test", shards, n_bootstrap=20)
    return dataclasses.replace(comparison, controls=found)


@pytest.mark.parametrize(("informative", "finds", "misses"), [("view", VIEW, THUMBNAILS), ("image", THUMBNAILS, VIEW)])
def test_the_control_that_sees_the_shortcut_finds_it_and_the_other_does_not(
    shards: dict[str, Path], informative: str, finds: str, misses: str
) -> None:
    folder = shards[informative]
    found = train_controls([(features_of(folder, "train"), features_of(folder, "test"))], load_manifest(folder), 50)
    aucs = {control.features: control.estimate("macro", "roc_auc") for control in found.rows}
    assert aucs[finds].value > 0.99
    assert aucs[misses].low < 0.5
    assert aucs[misses].value < 0.65
    assert found.reason == ""


def test_thumbnail_values_equal_scikit_learn(shards: dict[str, Path]) -> None:
    training, test = (features_of(shards["view"], split) for split in ("train", "test"))
    _, control = train_controls([(training, test)], load_manifest(shards["view"]), 10).rows
    scaler = StandardScaler().fit(training.thumbnails)
    model = LogisticRegression(max_iter=2000).fit(scaler.transform(training.thumbnails), training.labels[:, 0])
    p = model.predict_proba(scaler.transform(test.thumbnails))
    assert control.estimate("macro", "roc_auc").value == roc_auc_score(test.labels[:, 0], p[:, 1])
    assert control.estimate("log_loss").value == pytest.approx(log_loss(test.labels[:, 0], p))
    assert control.trained_on == len(training.keys)


def test_a_missing_attribute_is_a_category_and_absent_ones_are_not_used(shards: dict[str, Path]) -> None:
    manifest = load_manifest(shards["view"])
    training, test = (features_of(shards["view"], split) for split in ("train", "test"))
    # Where the view is missing exactly for one class, that it is missing tells the class.
    without = [
        dataclasses.replace(each, attributes={"view": ["" if v == "AP" else v for v in each.attributes["view"]]} | none)
        for each, none in (
            (each, {name: [""] * len(each.keys) for name in ("sex", "age")}) for each in (training, test)
        )
    ]
    control = train_controls([without], manifest, 10).rows[0]
    assert (control.features, control.estimate("macro", "roc_auc").value) == ("view", 1.0)
    nothing = [
        dataclasses.replace(each, attributes={name: [""] * len(each.keys) for name in each.attributes})
        for each in (training, test)
    ]
    found = train_controls([nothing], manifest, 10)
    assert [control.features for control in found.rows] == [THUMBNAILS]
    assert found.reason == "view, age and sex are not recorded in the shards"


def test_multilabel_controls_use_known_labels_and_survive_a_label_without_positives(shards: dict[str, Path]) -> None:
    training, test = (features_of(shards["view"], split) for split in ("train", "test"))

    def labelled(features: ControlFeatures) -> ControlFeatures:
        labels = np.repeat(features.labels, 3, axis=1)
        labels[::3, 0] = -1
        labels[:, 2] = 0
        return dataclasses.replace(features, labels=labels)

    manifest = dataclasses.replace(load_manifest(shards["view"]), task="multilabel", classes=("a", "b", "never"))
    control = train_controls([(labelled(training), labelled(test))], manifest, 10).rows[0]
    per_class = control.evaluation["metrics"]["per_class"]
    assert per_class["a"]["roc_auc"] == per_class["b"]["roc_auc"] == 1.0
    assert per_class["a"]["unknown"] > 0
    assert per_class["never"]["roc_auc"] is None


def test_large_training_splits_are_sampled_by_a_hash(shards: dict[str, Path]) -> None:
    data, manifest = DataConfig(shards=str(shards["view"])), load_manifest(shards["view"])
    every = read_control_features(data, manifest, "train")
    some = read_control_features(data, manifest, "train", most=20)
    assert some.keys == read_control_features(data, manifest, "train", most=20).keys
    assert len(some.keys) == 20
    assert some.keys == [key for key in every.keys if key in set(some.keys)]


def test_controls_stand_beside_the_runs_and_are_kept_for_the_next_comparison(
    shards: dict[str, Path], tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(shards["view"], moved)
    run = evaluated_run(tmp_path / "run", moved)
    comparison = compared(run)
    assert [control.features for control in comparison.controls.rows] == [VIEW, THUMBNAILS]
    page, record = render_page(comparison), comparison.to_dict()["controls"]
    assert page.count('<tr class="control">') == 2
    assert record["rows"][0]["metrics"]["macro_roc_auc"]["value"] == 1.0
    kept = run / "evaluation" / "test" / CACHE
    assert not [key for key in comparison.runs[0].predictions.keys if key in kept.read_text()]
    shutil.rmtree(moved)
    assert compared(run).controls == comparison.controls
    kept.write_text(kept.read_text().replace('"split": "test"', '"split": "val"'))
    assert "not at hand" in compared(run).controls.reason


def test_shards_that_are_damaged_or_elsewhere_are_a_reason_and_no_error(
    shards: dict[str, Path], tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(shards["view"], moved)
    run = evaluated_run(tmp_path / "run", moved)
    (moved / "train-00000.tar").unlink()
    found = compared(run).controls
    assert (found.rows, "train-00000.tar cannot be opened" in found.reason) == ((), True)
    assert "Controls are missing: train-00000.tar" in render_page(compared(run))


def test_the_command_can_leave_controls_out(cxr_dist, shards: dict[str, Path], tmp_path: Path) -> None:
    run = evaluated_run(tmp_path / "run", shards["view"])
    out = tmp_path / "comparison"
    assert cxr_dist("compare", run, "--out", out, "--controls", "false")[0] == 0
    assert json.loads((out / "comparison.json").read_text())["controls"] == {"reason": None, "rows": []}
    assert not (run / "evaluation" / "test" / CACHE).exists()
    status, printed, said = cxr_dist("compare", run, "--out", out)
    assert status == 0, said
    assert "logistic regressions reach a macro ROC AUC of 1.000" in " ".join(printed.split())
    assert len(json.loads((out / "comparison.json").read_text())["controls"]["rows"]) == 2
