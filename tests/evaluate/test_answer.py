"""Answers for a case: the interval over the passes, the calibrated probability, and no value that is not finite."""

import json

import numpy as np
import pytest
from made_runs import softmax

from cxr_dist.errors import UserError
from cxr_dist.evaluate.answer import answers
from cxr_dist.evaluate.calibration import Calibrator

RANDOM = np.random.default_rng(0)
CERTAIN = softmax(RANDOM.normal(size=(3, 4)))
PASSES = softmax(RANDOM.normal(size=(41, 3, 4)))
CLASSES = ("a", "b", "c", "d")


def test_the_interval_excludes_one_pass_in_forty_at_each_end() -> None:
    result = answers(CERTAIN, PASSES, "multiclass", CLASSES, None)
    assert result.interval is not None
    ordered = np.sort(PASSES, axis=0)
    # The 2.5% and 97.5% percentiles of 41 passes are the second and the second last.
    np.testing.assert_allclose(result.interval, ordered[[1, 39]], rtol=1e-12)
    np.testing.assert_array_equal(result.headline, CERTAIN)


def test_json_and_table_row_of_a_case_agree() -> None:
    calibrator = Calibrator(prior_shift=(1.0, 0.0, 5.0, 0.0), temperature=2.0, bias=(0.0,) * 4)
    result = answers(CERTAIN, PASSES, "multiclass", CLASSES, calibrator)
    calibrated = calibrator.apply(CERTAIN, "multiclass")
    in_json = json.loads(json.dumps(result.to_dict(1)))
    assert list(in_json["probability"]) == list(CLASSES)
    assert list(in_json["calibrated"].values()) == calibrated[1].round(6).tolist()
    means = calibrator.apply(PASSES, "multiclass").mean(axis=0)
    assert list(in_json["mc_mean"].values()) == means[1].round(6).tolist()
    for name in CLASSES:
        assert 0 <= in_json["mc_low"][name] <= in_json["mc_mean"][name] <= in_json["mc_high"][name] <= 1
        assert result.columns(1)[f"mc_low:{name}"] == in_json["mc_low"][name]
    total = in_json["expected_entropy_nats"] + in_json["mutual_information_nats"]
    assert in_json["predictive_entropy_nats"] == pytest.approx(total, abs=2e-6)
    assert in_json["mc_passes"] == 41
    assert result.columns(1)["predicted"] == CLASSES[calibrated[1].argmax()] != CLASSES[CERTAIN[1].argmax()]


def test_without_passes_and_temperature_their_fields_are_omitted() -> None:
    result = answers(CERTAIN, None, "multiclass", CLASSES, None)
    assert set(result.to_dict(0)) == {"headline", "probability", "mc_passes"}
    assert result.to_dict(0)["headline"]["kind"] == "probability"
    assert result.to_dict(0)["headline"]["values"] == result.to_dict(0)["probability"]


def test_the_headline_is_calibrated_and_decides_the_class() -> None:
    biased = Calibrator(prior_shift=(3.0, 0.0, 0.0, 0.0), bias=(0.0, 0.0, 0.0, 0.0))
    probabilities = np.array([[0.7, 0.2, 0.05, 0.05]])
    result = answers(probabilities, probabilities[None], "multiclass", CLASSES, biased)
    headline = result.to_dict(0)["headline"]
    assert headline["kind"] == "calibrated probability"
    assert headline["values"] == result.to_dict(0)["calibrated"]
    assert (headline["predicted"], headline["rule"]) == (["b"], "the most probable class")
    assert headline["thresholds"] is None
    row = result.columns(0)
    assert row["predicted"] == "b"
    assert [row[f"headline:{name}"] for name in CLASSES] == list(headline["values"].values())
    # One pass that equals the deterministic one has an interval of no width, at the headline.
    assert result.to_dict(0)["mc_low"] == result.to_dict(0)["mc_high"] == headline["values"]


@pytest.mark.parametrize(
    ("thresholds", "predicted", "used", "rule"),
    [
        ({}, ("x",), (0.5, 0.5), "each class of at least 0.5"),
        (
            {"x": 0.6, "y": 0.3},
            ("y",),
            (0.6, 0.3),
            "each class of at least its threshold, which was chosen on validation",
        ),
        (
            {"y": 0.49},
            ("x", "y"),
            (0.5, 0.49),
            "each class of at least its threshold, which was chosen on validation (0.5 for x, without a threshold)",
        ),
    ],
)
def test_multilabel_decides_each_label_at_its_recorded_threshold(thresholds, predicted, used, rule) -> None:
    result = answers(np.array([[0.5, 0.49]]), None, "multilabel", ("x", "y"), None, thresholds)
    headline, row = result.to_dict(0)["headline"], result.columns(0)
    assert tuple(headline["predicted"]) == predicted
    assert tuple(name for name in ("x", "y") if row[f"predicted:{name}"]) == predicted
    assert tuple(headline["thresholds"].values()) == used
    assert headline["rule"] == rule


def test_the_prediction_set_holds_what_reaches_its_threshold_before_calibration() -> None:
    calibrator = Calibrator(prior_shift=(3.0, 0.0, 0.0, 0.0), bias=(0.0,) * 4)
    sets = {"a": 0.7, "b": 0.21, "c": None, "d": 0.01}
    result = answers(np.array([[0.7, 0.2, 0.05, 0.05]]), None, "multiclass", CLASSES, calibrator, None, sets)
    assert result.to_dict(0)["headline"]["prediction_set"] == {"level": 0.9, "holds": ["a", "c", "d"]}
    assert [result.columns(0)[f"set:{name}"] for name in CLASSES] == [1, 0, 1, 1]
    assert result.set_in_words(0) == "90% prediction set: a, c, d"
    nothing = answers(np.array([[0.25] * 4]), None, "multiclass", CLASSES, None, None, dict.fromkeys(CLASSES, 0.3))
    assert nothing.set_in_words(0) == "90% prediction set: empty, no class reaches its threshold"


def test_a_label_has_a_set_of_its_own_of_present_and_absent() -> None:
    names = ("x", "y", "z", "w")
    thresholds = [(0.6, 0.5), (0.1, 0.5), (0.9, 0.9), (0.9, 0.2)]
    sets = {
        f"{name}/{side}": value
        for name, of in zip(names, thresholds, strict=True)
        for side, value in zip(("present", "absent"), of, strict=True)
    }
    result = answers(np.array([[0.7, 0.3, 0.5, 0.1]]), None, "multilabel", names, None, None, sets)
    holds = {"x": ["present"], "y": ["present", "absent"], "z": [], "w": ["absent"]}
    assert result.prediction_set(0) == holds
    assert [result.columns(0)[f"set:{name}"] for name in names] == ["present", "present or absent", "", "absent"]
    assert result.set_in_words(0) == "90% prediction sets: present (x), undecided (y), neither (z)"


@pytest.mark.parametrize("where", ["certain", "passes"])
def test_a_diverged_model_is_refused(where: str) -> None:
    bad = {"certain": CERTAIN.copy(), "passes": PASSES.copy()}
    bad[where][..., 0] = np.nan
    with pytest.raises(UserError, match=r"not a number: this checkpoint diverged; choose another run"):
        answers(bad["certain"], bad["passes"], "multiclass", CLASSES, None)
