"""Thresholds are optimal on validation by exhaustive search, and do not depend on the test split."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import CLASSES, make_predictions
from sklearn import metrics as sk

from cxr_dist.errors import UserError
from cxr_dist.evaluate.assess import assess
from cxr_dist.evaluate.calibrator_choice import choose_calibrator
from cxr_dist.evaluate.predictions import OneClass
from cxr_dist.evaluate.thresholds import choose, operating_points


def one_class(rows: list[tuple[bool, int]]) -> OneClass:
    truth, score = (np.array(column) for column in zip(*rows, strict=True))
    return OneClass(name="a", truth=truth, score=score / 7, predicted=truth, known=truth | True)


def rates(one: OneClass, threshold: float) -> tuple[float, float]:
    answers = one.score >= threshold
    return float(answers[one.truth].mean()), float((~answers)[~one.truth].mean())


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 7)), min_size=2, max_size=40),
    st.sampled_from([None, 0.5, 0.9, 1.0]),
)
def test_no_other_threshold_is_better(rows: list[tuple[bool, int]], at_sensitivity: float | None) -> None:
    one = one_class(rows)
    chosen = choose(one, at_sensitivity)
    if len(set(one.truth.tolist())) < 2:
        assert chosen is None
        return
    assert chosen is not None
    others = {float(t): rates(one, t) for t in one.score}
    sensitivity, specificity = others[chosen]
    if at_sensitivity is None:
        assert sensitivity + specificity >= max(map(sum, others.values())) - 1e-12
    else:
        assert sensitivity >= at_sensitivity
        assert specificity == max(sp for se, sp in others.values() if se >= at_sensitivity)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_applied_values_equal_scikit_learn_at_the_chosen_threshold(task: str) -> None:
    validation, test = (make_predictions(task=task, passes=0, data=data) for data in (1, 2))
    result = operating_points(validation, test, 0.9)
    for c, name in enumerate(CLASSES):
        point, one = result["per_class"][name], test.one_class(c)
        answers = one.score >= point["threshold"]
        applied = point["applied"]
        assert applied["confusion"] == sk.confusion_matrix(one.truth, answers).tolist()
        assert applied["recall"]["value"] == pytest.approx(sk.recall_score(one.truth, answers))
        assert applied["precision"]["value"] == pytest.approx(sk.precision_score(one.truth, answers))
        assert applied["negative_predictive_value"]["value"] == pytest.approx(sk.precision_score(~one.truth, ~answers))
        assert point["validation"]["recall"] >= 0.9
        assert applied["recall"]["low"] <= applied["recall"]["value"] <= applied["recall"]["high"]


@pytest.mark.parametrize(("patients", "has_intervals"), [(["p"] * 8, False), (["p", "q"] * 4, True)])
def test_applied_values_have_intervals_from_two_patients_on(patients: list[str], has_intervals: bool) -> None:
    validation, test = make_predictions(passes=0, data=1), make_predictions(n=8, passes=0, data=2)
    test = dataclasses.replace(test, patients=patients)
    points = operating_points(validation, test, None)["per_class"].values()
    recalls = [point["applied"]["recall"] for point in points if point["applied"]["recall"]["value"] is not None]
    assert recalls
    assert {recall["low"] is not None for recall in recalls} == {has_intervals}


def test_thresholds_do_not_depend_on_test_labels() -> None:
    validation, test = (make_predictions(passes=0, data=data) for data in (1, 2))
    before = operating_points(validation, test, None)
    test.labels[:] = (test.labels + 1) % 5
    after = operating_points(validation, test, None)
    for name in CLASSES:
        assert before["per_class"][name]["threshold"] == after["per_class"][name]["threshold"]
        assert before["per_class"][name]["applied"] != after["per_class"][name]["applied"]


def test_a_class_that_validation_lacks_has_a_reason_and_no_threshold() -> None:
    validation, test = (make_predictions(passes=0, data=data) for data in (1, 2))
    validation.labels[validation.labels == 4] = 0
    point = operating_points(validation, test, None)["per_class"]["nodule"]
    assert point == {"threshold": None, "reason": "validation lacks positive or negative samples"}


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5, 90.0])
def test_a_sensitivity_outside_0_to_1_is_refused(share: float) -> None:
    predictions = make_predictions(n=10, passes=0)
    with pytest.raises(UserError, match=r"--at-sensitivity is .*; expected a share above 0 and up to 1"):
        operating_points(predictions, predictions, share)


def test_the_result_records_the_samples_it_was_chosen_on() -> None:
    validation, test = make_predictions(n=80, passes=0, data=1), make_predictions(passes=0, data=2)
    choice = choose_calibrator(validation)
    result = assess(test.calibrated(choice.calibrator), validation, choice, 0.8, n_bootstrap=10)
    chosen_on = {"split": "val", "n": 80, "patients": len(set(validation.patients))}
    chosen_on["source"] = "own validation"
    assert result["calibration"]["chosen_on"] == result["operating_points"]["chosen_on"] == chosen_on
    assert result["operating_points"]["rule"] == "the highest specificity with a sensitivity of at least 0.8"
    alone = assess(test, None, n_bootstrap=10)
    assert alone["calibration"] is alone["operating_points"] is None


def test_thresholds_are_chosen_and_applied_on_calibrated_probabilities() -> None:
    validation, test = (make_predictions(task="multilabel", n=400, passes=0, data=data) for data in (1, 2))
    shift = (2.0, 1.0, 0.0, -1.0, 2.0)
    choice = choose_calibrator(validation, shift)
    assert choice.calibrator.method != "none"
    calibrated = test.calibrated(choice.calibrator)
    result = assess(calibrated, validation, choice, n_bootstrap=10)
    raw = operating_points(validation, test, None)["per_class"]
    for c, (name, point) in enumerate(result["operating_points"]["per_class"].items()):
        row = np.full((1, 5), raw[name]["threshold"])
        assert point["threshold"] == pytest.approx(choice.calibrator.apply(row, "multilabel")[0, c])
        assert point["applied"]["confusion"] == raw[name]["applied"]["confusion"]  # the order of scores is the same
    decided = (choice.calibrator.apply(test.probabilities, "multilabel") >= 0.5)[test.labels[:, 0] >= 0, 0]
    confusion = sk.confusion_matrix(test.labels[test.labels[:, 0] >= 0, 0], decided).tolist()
    assert result["metrics"]["per_class"][CLASSES[0]]["confusion"] == confusion
