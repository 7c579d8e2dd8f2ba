"""Prediction sets keep their promise on exchangeable data, by a quantile that NumPy gives as well."""

import dataclasses
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import CLASSES, make_predictions, softmax

from cxr_dist.evaluate.bootstrap import divide
from cxr_dist.evaluate.calibration import Calibrator
from cxr_dist.evaluate.conformal import LEAST, conformal, conformal_threshold
from cxr_dist.evaluate.predictions import Predictions
from cxr_dist.evaluate.set_rule import in_set, outcomes_of, recorded_thresholds

CHOSEN_ON = {"split": "val", "n": 1, "patients": 1, "source": "own validation"}


@given(probabilities=st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_the_threshold_is_the_finite_sample_quantile_of_numpy(probabilities: list[float]) -> None:
    values, n = np.array(probabilities), len(probabilities)
    found = conformal_threshold(values)
    level = Fraction(math.ceil((n + 1) * Fraction(9, 10)), n)
    assert (found is None) == (level > 1) == (n < LEAST)
    if found is not None:
        # The quantile of the scores 1 - p; of -p here, because 1 - p is rounded.
        assert found == -np.quantile(-values, float(level), method="inverted_cdf")


@pytest.mark.parametrize("n", [9, 19, 50])
def test_coverage_on_exchangeable_data_is_the_known_one_for_each_class(n: int) -> None:
    """The expected coverage of a continuous score is ⌈(n + 1) · 0.9⌉ / (n + 1), whatever the share of the class."""
    random, shares, covered = np.random.default_rng(0), np.array([0.8, 0.2]), []
    for _ in range(400):
        labels = np.concatenate([np.repeat([0, 1], n), random.choice(2, size=200, p=shares)])
        logits = random.normal(0, 1, (len(labels), 2)) + 1.0 * np.eye(2)[labels]
        p = softmax(logits)
        thresholds = {str(c): conformal_threshold(p[: 2 * n][labels[: 2 * n] == c, c]) for c in (0, 1)}
        inside, truth = in_set(p[2 * n :], "multiclass", thresholds), np.eye(2, dtype=bool)[labels[2 * n :]]
        covered.append(divide((inside & truth).sum(axis=0).astype(float), truth.sum(axis=0).astype(float)))
    expected = math.ceil((n + 1) * Fraction(9, 10)) / (n + 1)
    error = np.std(covered, axis=0) / np.sqrt(len(covered))
    assert 0.9 <= expected <= 0.9 + 1 / (n + 1)
    assert (np.abs(np.mean(covered, axis=0) - expected) < 4 * error).all()


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_coverage_and_sizes_are_those_of_the_sets(task: str) -> None:
    validation, test = make_predictions(task=task, data=8, n=600), make_predictions(task=task, n=300)
    block = conformal(validation, test, CHOSEN_ON, n_bootstrap=100)
    names = outcomes_of(test.classes, test.task)
    inside = in_set(test.raw, test.task, recorded_thresholds(block))
    if task == "multiclass":
        truth, sizes = test.labels == np.arange(5), inside.sum(axis=1)
    else:
        truth = np.stack([test.labels == 1, test.labels == 0], axis=2).reshape(300, 10)
        sizes = inside.reshape(300, 5, 2).sum(axis=2).mean(axis=1)
    assert list(block["per_outcome"]) == names
    for k, name in enumerate(names):
        coverage = block["per_outcome"][name]["coverage"]
        assert coverage["value"] == pytest.approx(inside[truth[:, k], k].mean())
        assert coverage["low"] < coverage["value"] <= coverage["high"]
        assert coverage["high"] > 0.85  # 0.9 is promised for the mean over validation splits
    assert block["coverage"]["value"] == pytest.approx((inside & truth).sum() / truth.sum())
    assert block["mean_size"]["value"] == pytest.approx(sizes.mean())
    assert block["mean_size"]["low"] < sizes.mean() < block["mean_size"]["high"]
    assert sum(block["sizes"].values()) == (300 if task == "multiclass" else 1500)
    group = block["subgroups"]["view"]["AP"]
    rows = np.array(test.attributes["view"]) == "AP"
    assert (group["n"], group["mean_size"]["value"]) == (rows.sum(), pytest.approx(sizes[rows].mean()))
    assert group["coverage"]["value"] == pytest.approx((inside & truth)[rows].sum() / truth[rows].sum())


def test_an_outcome_with_too_few_validation_patients_is_in_every_set_and_says_so() -> None:
    validation, test = make_predictions(n=200, data=8), make_predictions(n=60)
    rare = np.flatnonzero(validation.labels[:, 0] == 4)
    patients = dict.fromkeys(validation.patients[row] for row in rare)
    few = set(list(patients)[: LEAST - 1])
    kept = [i for i, patient in enumerate(validation.patients) if validation.labels[i, 0] != 4 or patient in few]
    block = conformal(validation.select(np.array(kept)), test, CHOSEN_ON, n_bootstrap=10)
    nodule = block["per_outcome"]["nodule"]
    assert (nodule["threshold"], nodule["n"]) == (None, LEAST - 1)
    assert nodule["reason"] == "fewer than 9 validation patients: in every set"
    assert nodule["coverage"]["value"] == 1
    assert in_set(test.raw, "multiclass", recorded_thresholds(block))[:, 4].all()
    assert "reason" not in block["per_outcome"]["normal"]


def test_one_image_of_each_patient_is_counted() -> None:
    alone = make_predictions(n=100, data=8)
    alone = dataclasses.replace(alone, patients=[f"p{i}" for i in range(100)])
    twice = alone.select(np.repeat(np.arange(100), 3))  # each image three times, as images of one patient
    test = make_predictions(n=40)
    assert conformal(twice, test, CHOSEN_ON, 10)["per_outcome"] == conformal(alone, test, CHOSEN_ON, 10)["per_outcome"]


def test_a_calibrator_that_was_fitted_to_validation_changes_nothing() -> None:
    validation, test = make_predictions(n=150, data=8), make_predictions(n=80)
    calibrator = Calibrator(prior_shift=(1.0, 0.0, 0.0, 0.0, 0.0), temperature=2.0, bias=(0.0, 0.0, 0.0, 0.0, 1.0))

    def block_of(calibrator: Calibrator | None) -> dict:
        return conformal(validation.calibrated(calibrator), test.calibrated(calibrator), CHOSEN_ON, n_bootstrap=10)

    assert block_of(calibrator) == block_of(None)


def test_unknown_labels_and_classes_that_the_shards_lack_count_for_nothing() -> None:
    validation = make_predictions(task="multilabel", n=150, data=8)
    test = make_predictions(task="multilabel", n=80)
    labels = test.labels.copy()
    labels[:, 0] = -1
    lacking: Predictions = dataclasses.replace(test, labels=labels, not_evaluated=(CLASSES[0],))
    block = conformal(validation, lacking, CHOSEN_ON, n_bootstrap=10)
    assert block["per_outcome"]["normal/present"]["coverage"] == {"value": None, "low": None, "high": None}
    assert block["per_outcome"]["normal/present"]["threshold"] is not None
    assert sum(block["sizes"].values()) == 4 * 80
