"""Each resample has the metrics of its repeated rows, and the intervals are what theory expects."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from made_runs import make_predictions

from cxr_dist.evaluate.bootstrap import patient_weights
from cxr_dist.evaluate.intervals import intervals, nested, resampled
from cxr_dist.evaluate.metrics import compute_metrics
from cxr_dist.evaluate.predictions import Predictions


def repeated(made: Predictions, weights: np.ndarray) -> Predictions:
    return made.select(np.repeat(np.arange(len(made)), weights.astype(int)))


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_each_resample_has_the_metrics_of_its_repeated_rows(task: str) -> None:
    """So every interval is the bootstrap of scikit-learn's own number."""
    made = make_predictions(task=task, n=90, passes=5)
    [weights] = patient_weights(made.patients, 6, seed=3)
    values = resampled(made, 6, seed=3)
    assert {path[0] for path in values} >= {"accuracy", "macro", "micro", "per_class", "uncertainty", "brier"}
    for b, row in enumerate(weights):
        metrics = compute_metrics(repeated(made, row))
        for path, found in values.items():
            expected: Any = metrics
            for key in path:
                expected = expected[key]
            assert found[b] == pytest.approx(expected, abs=1e-9), path


def test_nested_is_the_tree_of_the_paths() -> None:
    assert nested({("a", "b"): 1, ("a", "c"): 2, ("d",): 3}) == {"a": {"b": 1, "c": 2}, "d": 3}


def test_interval_holds_the_value_and_has_the_width_of_theory() -> None:
    """One film per patient: the accuracy's interval is ± 1.96 √(p (1 - p) / n)."""
    made = make_predictions(n=1000, passes=0)
    made = dataclasses.replace(made, patients=made.keys)
    found, accuracy = intervals(made)["accuracy"], compute_metrics(made)["accuracy"]
    half = 1.96 * np.sqrt(accuracy * (1 - accuracy) / 1000)
    assert found["low"] == pytest.approx(accuracy - half, abs=0.005)
    assert found["high"] == pytest.approx(accuracy + half, abs=0.005)


def test_films_of_the_same_patient_add_no_evidence() -> None:
    made = make_predictions(n=100, passes=0)
    once = dataclasses.replace(made, patients=made.keys)
    twice = repeated(once, np.full(100, 2))
    for name, found in intervals(twice)["macro"].items():
        assert found == pytest.approx(intervals(once)["macro"][name], abs=1e-12)


def test_seed_and_nothing_else_decides() -> None:
    made = make_predictions(passes=0)
    assert intervals(made, seed=1) == intervals(made, seed=1)
    assert intervals(made, seed=1)["accuracy"] != intervals(made, seed=2)["accuracy"]


def test_resamples_without_a_rare_class_are_skipped_and_counted() -> None:
    made = make_predictions(n=100, passes=0)
    made = dataclasses.replace(made, patients=made.keys)
    made.labels[made.labels == 4] = 0
    made.labels[0] = 4
    found = intervals(made, n_bootstrap=1000)
    skipped = found["per_class"]["nodule"]["roc_auc"]["skipped"]
    assert skipped == pytest.approx(1000 * 0.99**100, rel=0.15)  # (1 - 1/n)^n: the patient was never drawn
    assert found["macro"]["roc_auc"]["skipped"] == found["balanced_accuracy"]["skipped"] == skipped
    assert found["accuracy"]["skipped"] == 0


def test_class_that_the_split_lacks_does_not_empty_the_macro_interval() -> None:
    made = make_predictions(passes=0)
    made.labels[made.labels == 4] = 0
    found = intervals(made, n_bootstrap=50)
    assert found["per_class"]["nodule"]["roc_auc"] == {"low": None, "high": None, "skipped": 50}
    assert found["macro"]["roc_auc"]["low"] < found["macro"]["roc_auc"]["high"]


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_one_patient_has_no_interval(task: str) -> None:
    made = make_predictions(task=task, n=5, passes=0)
    made = dataclasses.replace(made, patients=["same"] * 5)
    assert intervals(made, n_bootstrap=10)["accuracy"] == {"low": None, "high": None, "skipped": 10}


def test_single_class_and_all_unknown_have_no_interval() -> None:
    single = make_predictions(passes=0)
    single.labels[:] = 1
    found = intervals(single, n_bootstrap=20)
    assert found["balanced_accuracy"]["low"] is found["macro"]["roc_auc"]["low"] is None
    assert found["accuracy"]["low"] is not None
    unknown = make_predictions(task="multilabel", passes=3)
    unknown.labels[:] = -1
    found = intervals(unknown, n_bootstrap=20)
    assert found["accuracy"]["low"] is found["brier"]["low"] is found["uncertainty"]["aurc"]["low"] is None
