"""Each resample has the metrics of its repeated rows, and intervals agree with theory and have a width at the edges."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from made_runs import CLASSES, make_predictions

from cxr_dist.evaluate.bootstrap import patient_weights
from cxr_dist.evaluate.intervals import intervals, nested, resampled
from cxr_dist.evaluate.metrics import compute_metrics
from cxr_dist.evaluate.predictions import Predictions
from cxr_dist.evaluate.wilson import METHOD


def repeated(predictions: Predictions, weights: np.ndarray) -> Predictions:
    return predictions.select(np.repeat(np.arange(len(predictions)), weights.astype(int)))


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_each_resample_has_the_metrics_of_its_repeated_rows(task: str) -> None:
    """Every interval is therefore a bootstrap of the value that scikit-learn computes."""
    predictions = make_predictions(task=task, n=90, passes=5)
    [weights] = patient_weights(predictions.patients, 6, seed=3)
    values = resampled(predictions, 6, seed=3)
    assert {path[0] for path in values} >= {"accuracy", "macro", "micro", "per_class", "uncertainty", "brier"}
    for b, row in enumerate(weights):
        metrics = compute_metrics(repeated(predictions, row))
        for path, result in values.items():
            expected: Any = metrics
            for key in path:
                expected = expected[key]
            assert result[b] == pytest.approx(expected, abs=1e-9), path


def test_nested_builds_a_tree_from_paths() -> None:
    assert nested({("a", "b"): 1, ("a", "c"): 2, ("d",): 3}) == {"a": {"b": 1, "c": 2}, "d": 3}


def test_the_interval_has_the_position_and_width_of_theory() -> None:
    """With one image per patient, the interval of the accuracy p is p ± 1.96 √(p (1 - p) / n)."""
    predictions = make_predictions(n=1000, passes=0)
    predictions = dataclasses.replace(predictions, patients=predictions.keys)
    result, accuracy = intervals(predictions)["accuracy"], compute_metrics(predictions)["accuracy"]
    half = 1.96 * np.sqrt(accuracy * (1 - accuracy) / 1000)
    assert result["low"] == pytest.approx(accuracy - half, abs=0.005)
    assert result["high"] == pytest.approx(accuracy + half, abs=0.005)


def test_copies_of_an_image_do_not_narrow_the_interval() -> None:
    predictions = make_predictions(n=100, passes=0)
    once = dataclasses.replace(predictions, patients=predictions.keys)
    twice = repeated(once, np.full(100, 2))
    for name, result in intervals(twice)["macro"].items():
        assert result == pytest.approx(intervals(once)["macro"][name], abs=1e-12)


def test_the_seed_determines_the_intervals() -> None:
    predictions = make_predictions(passes=0)
    assert intervals(predictions, seed=1) == intervals(predictions, seed=1)
    assert intervals(predictions, seed=1)["macro"] != intervals(predictions, seed=2)["macro"]


def test_the_intervals_begin_with_how_they_were_computed() -> None:
    found = intervals(make_predictions(n=60, passes=0), n_bootstrap=7, seed=3)
    assert list(found)[:4] == ["level", "method", "n_bootstrap", "seed"]
    assert (found["level"], found["n_bootstrap"], found["seed"]) == (0.95, 7, 3)
    assert found["method"] == METHOD


def test_resamples_without_a_rare_class_are_skipped_and_counted() -> None:
    predictions = make_predictions(n=100, passes=0)
    predictions = dataclasses.replace(predictions, patients=predictions.keys)
    predictions.labels[predictions.labels == 4] = 0
    predictions.labels[0] = 4
    result = intervals(predictions, n_bootstrap=1000)
    skipped = result["per_class"]["nodule"]["roc_auc"]["skipped"]
    assert skipped == pytest.approx(
        1000 * 0.99**100, rel=0.15
    )  # (1 - 1/n)^n: the probability that the only patient is not drawn
    assert result["macro"]["roc_auc"]["skipped"] == result["balanced_accuracy"]["skipped"] == skipped
    assert result["accuracy"]["skipped"] == 0


def test_a_class_without_samples_does_not_remove_the_macro_interval() -> None:
    predictions = make_predictions(passes=0)
    predictions.labels[predictions.labels == 4] = 0
    result = intervals(predictions, n_bootstrap=50)
    assert result["per_class"]["nodule"]["roc_auc"] == {"low": None, "high": None, "skipped": 50}
    assert result["macro"]["roc_auc"]["low"] < result["macro"]["roc_auc"]["high"]


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_one_patient_has_no_interval(task: str) -> None:
    predictions = make_predictions(task=task, n=5, passes=0)
    predictions = dataclasses.replace(predictions, patients=["same"] * 5)
    assert intervals(predictions, n_bootstrap=10)["accuracy"] == {"low": None, "high": None, "skipped": 10}


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_two_patients_are_enough_for_an_interval(task: str) -> None:
    predictions = make_predictions(task=task, n=40, passes=0)
    predictions = dataclasses.replace(predictions, patients=["one"] * 20 + ["two"] * 20)
    value, found = compute_metrics(predictions)["accuracy"], intervals(predictions, n_bootstrap=10)["accuracy"]
    assert 0 <= found["low"] < value < found["high"] <= 1
    assert found["skipped"] == 0
    # Either patient is drawn twice, or each once.
    halves = [compute_metrics(predictions.select(rows))["accuracy"] for rows in np.split(np.arange(40), 2)]
    drawn = resampled(predictions, 40, seed=0)["accuracy",]
    assert {int(np.abs(np.array([*halves, value]) - one).argmin()) for one in drawn} == {0, 1, 2}
    assert all(min(abs(one - each) for each in (*halves, value)) < 1e-9 for one in drawn)


def test_undefined_metrics_have_no_interval() -> None:
    single = make_predictions(passes=0)
    single.labels[:] = 1
    result = intervals(single, n_bootstrap=20)
    assert result["balanced_accuracy"]["low"] is result["macro"]["roc_auc"]["low"] is None
    assert result["accuracy"]["low"] is not None
    unknown = make_predictions(task="multilabel", passes=3)
    unknown.labels[:] = -1
    result = intervals(unknown, n_bootstrap=20)
    assert result["accuracy"]["low"] is result["brier"]["low"] is result["uncertainty"]["aurc"]["low"] is None


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
@pytest.mark.parametrize("right", [True, False])
def test_a_share_of_0_or_1_and_a_perfect_area_have_a_width(task: str, right: bool) -> None:
    predictions = make_predictions(task=task, n=60)
    labels = np.abs(predictions.labels)
    positive = np.eye(5)[labels[:, 0]] if task == "multiclass" else labels.astype(float)
    mc = dataclasses.replace(predictions.mc, mean=np.where(positive == right, 0.9, 0.1))
    sure = dataclasses.replace(predictions, labels=labels, probabilities=np.where(positive == right, 0.9, 0.1), mc=mc)
    result, values = intervals(sure, n_bootstrap=50), compute_metrics(sure)
    for branch in ("macro", "micro", *(("per_class", name) for name in CLASSES)):
        found, value = (
            (result[branch], values[branch])
            if isinstance(branch, str)
            else (result["per_class"][branch[1]], values["per_class"][branch[1]])
        )
        for name, bounds in found.items():
            if value[name] is not None:
                assert bounds["low"] < bounds["high"], (branch, name)
                assert bounds["low"] <= value[name] + 1e-12
                assert bounds["high"] >= value[name] - 1e-12
    assert result["accuracy"]["low"] < result["accuracy"]["high"]
    if right:
        assert result["macro"]["roc_auc"]["high"] == result["per_class"]["nodule"]["recall"]["high"] == 1.0
        assert 0 == result["uncertainty"]["aurc"]["low"] < result["uncertainty"]["aurc"]["high"]


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_every_value_lies_in_its_interval(task: str) -> None:
    predictions = make_predictions(task=task, n=70)
    result, values = intervals(predictions, n_bootstrap=50), compute_metrics(predictions)
    pairs = [(result[name], values[name]) for name in ("accuracy", "balanced_accuracy", "log_loss", "brier")]
    for branch in ("macro", "micro"):
        pairs += [(bounds, values[branch][name]) for name, bounds in result[branch].items()]
    for one in CLASSES:
        pairs += [(bounds, values["per_class"][one][name]) for name, bounds in result["per_class"][one].items()]
    assert len(pairs) > 50
    outside = [pair for pair in pairs if not pair[0]["low"] - 1e-12 <= pair[1] <= pair[0]["high"] + 1e-12]
    assert not outside
    assert all(bounds["low"] < bounds["high"] for bounds, _ in pairs)


def test_a_loss_that_is_the_same_for_all_patients_has_no_interval() -> None:
    predictions = make_predictions(n=40, passes=0)
    same = dataclasses.replace(predictions, probabilities=np.full((40, 5), 0.2))
    assert intervals(same, n_bootstrap=5)["log_loss"] == {"low": None, "high": None, "skipped": 0}


@pytest.mark.parametrize(("task", "largest"), [("multiclass", 2.0), ("multilabel", 1.0)])
def test_the_interval_of_a_brier_score_ends_at_the_largest_possible_score(task: str, largest: float) -> None:
    """Two patients whose predictions are nearly all as wrong as possible."""
    predictions = make_predictions(task=task, n=2, classes=("a", "b"), passes=0)
    truth = np.array([[1, 0], [0, 1]])
    labels = truth if task == "multilabel" else np.array([[0], [1]])
    wrong = np.array([[1e-6, 1 - 1e-6], [0.9, 0.1]])
    predictions = dataclasses.replace(
        predictions, labels=labels.astype(np.int16), probabilities=wrong, patients=["p", "q"]
    )
    found = intervals(predictions, 10)["brier"]
    assert found["low"] < compute_metrics(predictions)["brier"] <= found["high"] == largest
