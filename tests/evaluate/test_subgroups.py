"""The metrics of a subgroup are those of its samples alone."""

import dataclasses

import numpy as np
import pytest
from made_runs import make_predictions

from cxr_dist.evaluate.intervals import intervals
from cxr_dist.evaluate.metrics import compute_metrics
from cxr_dist.evaluate.subgroups import age_band, attributes_of, few_note, subgroups


def test_values_and_intervals_equal_those_of_the_subgroup_alone() -> None:
    predictions = make_predictions(n=150)
    result = subgroups(predictions, n_bootstrap=100)["view"]
    assert list(result) == ["AP", "PA", "lateral", "not recorded"]
    assert sum(group["n"] for group in result.values()) == 150
    rows = np.flatnonzero(np.array(predictions.attributes["view"]) == "AP")
    alone = predictions.select(rows)
    metrics, bounds = compute_metrics(alone), intervals(alone, 100)
    assert result["AP"]["macro_roc_auc"]["value"] == metrics["macro"]["roc_auc"]
    assert result["AP"]["accuracy"] == {
        "value": metrics["accuracy"],
        "low": bounds["accuracy"]["low"],
        "high": bounds["accuracy"]["high"],
    }
    assert result["AP"]["patients"] == len(set(alone.patients))


def test_small_groups_have_a_note_and_missing_classes_are_not_listed() -> None:
    predictions = make_predictions(n=60, passes=0)
    views = ["PA" if label == 0 or i % 2 else "AP" for i, label in enumerate(predictions.labels[:, 0])]
    result = subgroups(dataclasses.replace(predictions, attributes={"view": views}), n_bootstrap=10)["view"]
    assert result["AP"]["note"].startswith("too few: ")
    assert "normal" not in result["AP"]["classes"]
    assert "normal" in result["PA"]["classes"]


def test_groups_are_flagged_by_their_positives_and_negatives() -> None:
    """300 images with nine positives are flagged, 30 images with ten are not."""
    labels = np.array([[1]] * 9 + [[0]] * 291 + [[1]] * 10 + [[0]] * 10 + [[-1]] * 10, dtype=np.int16)
    made = make_predictions(task="multilabel", n=330, classes=("nodule",), passes=0)
    views = {"view": ["PA"] * 300 + ["AP"] * 30}
    result = subgroups(dataclasses.replace(made, labels=labels, attributes=views), n_bootstrap=10)["view"]
    assert result["PA"]["note"] == "too few: nodule (9 positive)"
    assert result["AP"]["note"] == ""
    assert few_note({"normal": (3, 40), "nodule": (40, 9)}) == "too few: normal (3 positive), nodule (9 negative)"
    assert few_note({}) == "no class has both positive and negative images"


def test_an_attribute_with_one_value_has_no_subgroups() -> None:
    predictions = dataclasses.replace(make_predictions(n=10, passes=0), attributes={"view": ["PA"] * 10})
    assert subgroups(predictions, n_bootstrap=5) == {}


def test_attributes_are_read_from_samples_and_ages_only_kept_as_bands() -> None:
    samples = [{"view": "PA", "age": 52, "sex": None}, {"view": " AP ", "sex": "F"}, {"age": "017Y"}]
    assert attributes_of(samples) == {
        "view": ["PA", "AP", ""],
        "sex": ["", "F", ""],
        "age_band": ["40 to 64", "", "under 18"],
    }
    assert attributes_of([{}, {"text": {}}]) == {}


@pytest.mark.parametrize(
    ("age", "band"), [(0, "under 18"), ("18", "18 to 39"), (64.9, "40 to 64"), (65, "65 and over"), ("?", "")]
)
def test_age_bands(age: object, band: str) -> None:
    assert age_band(age) == band
