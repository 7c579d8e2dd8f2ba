"""Internal and external evaluations of a run stand side by side, with the numbers of their own files."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from made_runs import add_external, make_predictions, make_run

from cxr_dist.evaluate.calibration import scores
from cxr_dist.evaluate.calibration_line import calibration_line
from cxr_dist.evaluate.compare import Comparison, compare
from cxr_dist.evaluate.generalisation import population_shift, populations
from cxr_dist.evaluate.metrics import compute_metrics, strict_json
from cxr_dist.evaluate.predictions import Predictions

CLASSES = ("effusion", "nodule", "opacity")


def other_hospital() -> Predictions:
    """Other patients, all AP, without any label of opacity."""
    predictions = make_predictions(task="multilabel", n=90, classes=CLASSES, skill=1.0, seed=5, data=11, passes=0)
    predictions.labels[:, 2] = -1
    return dataclasses.replace(predictions, attributes={"view": ["AP"] * 90, "sex": ["F", "M"] * 45})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("external")
    made = {"task": "multilabel", "classes": CLASSES, "passes": 0}
    validation = make_predictions(**made, data=8)
    for name, seed in (("a", 0), ("b", 1)):
        make_run(root / name, make_predictions(**made, seed=seed), mode="image", validation=validation)
    add_external(root / "a", "elsewhere", other_hospital(), validation)
    return root


@pytest.fixture(scope="module")
def comparison(folder: Path) -> Comparison:
    return compare([folder / "a", folder / "b"], n_bootstrap=50)


def test_only_runs_with_external_evaluations_are_listed(comparison: Comparison) -> None:
    (one,) = comparison.generalisation
    assert [(each.run, each.name, each.external is not None) for each in one.all] == [
        ("a", "test", False),
        ("a", "elsewhere", True),
    ]
    assert [len(each.evaluated_classes) for each in one.all] == [3, 2]


def test_numbers_are_those_of_each_data_set(comparison: Comparison) -> None:
    own, external = comparison.generalisation[0].all
    predictions = external.predictions
    assert np.array_equal(predictions.raw, other_hospital().probabilities)
    assert external.auc.value == compute_metrics(predictions)["macro"]["roc_auc"]
    assert own.auc == comparison.runs[0].estimate("macro", "roc_auc")
    assert external.scores == scores(predictions.probabilities, predictions.labels, "multilabel")
    one = predictions.one_class(1)
    of_class = external.per_class["nodule"]
    line = calibration_line(one.score, one.truth)
    assert {name: of_class[name] for name in line} == line
    threshold = comparison.runs[0].evaluation["operating_points"]["per_class"]["nodule"]["threshold"]
    assert of_class["threshold"] == threshold
    assert of_class["recall"]["value"] == pytest.approx(np.mean(one.score[one.truth] >= threshold))


def test_operating_points_are_averaged_over_the_classes_that_both_have(comparison: Comparison) -> None:
    (one,) = comparison.generalisation
    assert one.common_points == ["effusion", "nodule"]
    own = one.own.points
    assert one.own.at_thresholds("recall", one.common_points) == pytest.approx(
        np.mean([own[name]["recall"]["value"] for name in ("effusion", "nodule")])
    )


def test_the_statement_says_over_how_many_classes_if_they_differ(comparison: Comparison) -> None:
    one = comparison.generalisation[0]
    own, external = (each.auc for each in one.all)
    outside, inside = (f"{auc.value:.3f} ({auc.low:.3f} to {auc.high:.3f})" for auc in (external, own))
    assert one.statements == [
        f"a reaches a macro ROC AUC of {outside} over 2 classes on elsewhere (90 images of 60 patients), and {inside} "
        "over 3 on its own test split."
    ]


def test_the_shift_of_the_population_has_a_column_for_each_data_set(comparison: Comparison) -> None:
    columns = populations(comparison.generalisation)
    assert list(columns) == ["test", "elsewhere"]
    shift = {(title, value): shares for title, value, shares in population_shift(columns)}
    views = np.array(comparison.runs[0].predictions.attributes["view"])
    assert shift["View", "AP"] == [pytest.approx((views == "AP").mean()), 1.0]
    assert shift["View", "PA"][1] == 0.0
    assert shift["Sex", "F"] == [None, 0.5]
    assert shift["Positive labels", "opacity"][1] is None
    predictions = comparison.runs[0].predictions
    known = predictions.labels[:, 0] >= 0
    assert shift["Positive labels", "effusion"][0] == pytest.approx((predictions.labels[known, 0] == 1).mean())


def test_comparison_json_has_every_evaluation(comparison: Comparison) -> None:
    result = comparison.to_dict()
    strict_json(result)
    assert [(entry["run"], entry["evaluation"]) for entry in result["external"]] == [("a", "test"), ("a", "elsewhere")]
    assert result["external"][1]["external"]["classes_not_evaluated"] == {"opacity": "the shards have no such class"}
    assert {"slope", "intercept", "ece", "log_loss", "per_class", "population"} <= result["external"][1].keys()


def test_one_name_for_two_data_sets_names_the_run(folder: Path) -> None:
    validation = make_predictions(task="multilabel", classes=CLASSES, passes=0, data=8)
    others = make_predictions(task="multilabel", classes=CLASSES, passes=0, data=12, n=40)
    add_external(folder / "b", "elsewhere", others, validation, recalibrated=True)
    found = compare([folder / "a", folder / "b"], n_bootstrap=10).generalisation
    assert list(populations(found)) == ["test", "elsewhere", "elsewhere (b)"]
    assert [each.calibrated.partition(" (")[2] for each in found[1].all] == [
        "own validation)",
        "validation of the evaluated shards)",
    ]


def test_raw_probabilities_of_an_earlier_version_are_called_uncalibrated(folder: Path) -> None:
    (one, *_) = compare([folder / "a"], n_bootstrap=10).generalisation
    raw = dataclasses.replace(one.own.predictions, uncalibrated=None)
    assert one.own.calibrated != "not calibrated"
    assert dataclasses.replace(one.own, predictions=raw).calibrated == "not calibrated"
