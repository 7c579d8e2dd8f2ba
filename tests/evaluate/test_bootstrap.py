"""The vectorised bootstrap against scikit-learn resample by resample, and against what theory expects."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import make_predictions
from sklearn import metrics as sk

from cxr_dist.evaluate import bootstrap
from cxr_dist.evaluate.bootstrap import intervals, weighted_auc
from cxr_dist.evaluate.metrics import compute_metrics
from cxr_dist.evaluate.predictions import Predictions


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6), st.integers(0, 3)), min_size=1, max_size=60))
def test_weighted_auc_is_scikit_learns_on_repeated_rows(rows: list[tuple[bool, int, int]]) -> None:
    """Few distinct scores, so that ties are common."""
    truth, score, weight = (np.array(column) for column in zip(*rows, strict=True))
    auc = weighted_auc(truth, score / 6, weight[None].astype(np.float64))[0]
    repeated = np.repeat(truth, weight)
    if len(set(repeated.tolist())) < 2:
        assert np.isnan(auc)
    else:
        assert auc == pytest.approx(sk.roc_auc_score(repeated, np.repeat(score, weight)), abs=1e-12)


def resampled(made: Predictions, weights: np.ndarray) -> Predictions:
    rows = np.repeat(np.arange(len(made)), weights.astype(int))
    return Predictions(
        task=made.task,
        classes=made.classes,
        keys=[made.keys[i] for i in rows],
        patients=[made.patients[i] for i in rows],
        labels=made.labels[rows],
        probabilities=made.probabilities[rows],
    )


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_each_resample_has_the_metrics_of_its_repeated_rows(task: str) -> None:
    made = make_predictions(task=task, n=90, passes=0)
    [weights] = bootstrap._weights(made.patients, 20, seed=3)
    ones = [made.one_class(c) for c in range(5)]
    values = bootstrap._metrics_of(ones, weights)
    accuracy, balanced = bootstrap._accuracy(made, values), bootstrap._balanced(made, values)
    for b, row in enumerate(weights):
        expected = compute_metrics(resampled(made, row))
        assert accuracy[b] == pytest.approx(expected["accuracy"], abs=1e-12)
        assert balanced[b] == pytest.approx(expected["balanced_accuracy"], abs=1e-12)
        for c, name in enumerate(made.classes):
            for metric in ("f1", "roc_auc"):
                assert values[metric][b, c] == pytest.approx(expected["per_class"][name][metric], abs=1e-12)


def test_patients_are_drawn_whole() -> None:
    made = make_predictions(n=60, passes=0)
    [weights] = bootstrap._weights(made.patients, 50, seed=0)
    patients = np.array(made.patients)
    for patient in set(made.patients):
        assert (weights[:, patients == patient].std(axis=1) == 0).all()
    first = [made.patients.index(patient) for patient in sorted(set(made.patients))]
    assert (weights[:, first].sum(axis=1) == len(first)).all()


def test_chunks_do_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_predictions(passes=0)
    whole = intervals(made, n_bootstrap=64)
    monkeypatch.setattr(bootstrap, "_CELLS", 7 * len(made))
    assert intervals(made, n_bootstrap=64) == whole


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
    twice = resampled(once, np.full(100, 2))
    assert intervals(twice)["macro"] == intervals(once)["macro"]


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
    unknown = make_predictions(task="multilabel", passes=0)
    unknown.labels[:] = -1
    assert intervals(unknown, n_bootstrap=20)["accuracy"]["low"] is None
