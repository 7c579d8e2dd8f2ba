"""What is said of a case: the passes' middle 95%, the temperature applied, and no number that is none."""

import json

import numpy as np
import pytest
from made_runs import softmax

from cxr_dist.errors import UserError
from cxr_dist.evaluate.answer import answers
from cxr_dist.evaluate.calibration import tempered

RANDOM = np.random.default_rng(0)
CERTAIN = softmax(RANDOM.normal(size=(3, 4)))
PASSES = softmax(RANDOM.normal(size=(41, 3, 4)))
CLASSES = ("a", "b", "c", "d")


def test_the_interval_leaves_one_pass_in_forty_outside_at_either_end() -> None:
    found = answers(CERTAIN, PASSES, "multiclass", CLASSES, None)
    assert found.interval is not None
    ordered = np.sort(PASSES, axis=0)
    np.testing.assert_allclose(
        found.interval, ordered[[1, 39]], rtol=1e-12
    )  # 2.5% and 97.5% of 41 fall on passes
    np.testing.assert_array_equal(found.shown, PASSES.mean(axis=0))


def test_a_case_in_json_and_as_a_row() -> None:
    found = answers(CERTAIN, PASSES, "multiclass", CLASSES, 2.0)
    said = json.loads(json.dumps(found.to_dict(1)))
    assert list(said["probability"]) == list(CLASSES)
    assert list(said["calibrated"].values()) == tempered(CERTAIN, 2.0, "multiclass")[1].round(6).tolist()
    for name in CLASSES:
        assert 0 <= said["mc_low"][name] <= said["mc_mean"][name] <= said["mc_high"][name] <= 1
        assert found.columns(1)[f"mc_low:{name}"] == said["mc_low"][name]
    shared = said["expected_entropy_nats"] + said["mutual_information_nats"]
    assert said["predictive_entropy_nats"] == pytest.approx(shared, abs=2e-6)
    assert said["mc_passes"] == 41
    assert found.columns(1)["predicted"] == CLASSES[CERTAIN[1].argmax()]


def test_without_passes_or_temperature_they_are_left_out() -> None:
    found = answers(CERTAIN, None, "multiclass", CLASSES, None)
    assert set(found.to_dict(0)) == {"probability", "mc_passes"}
    np.testing.assert_array_equal(found.shown, CERTAIN)


def test_several_labels_are_decided_each_for_itself() -> None:
    row = answers(np.array([[0.5, 0.49]]), None, "multilabel", ("x", "y"), None).columns(0)
    assert (row["predicted:x"], row["predicted:y"]) == (1, 0)


@pytest.mark.parametrize("where", ["certain", "passes"])
def test_a_diverged_model_is_refused(where: str) -> None:
    bad = {"certain": CERTAIN.copy(), "passes": PASSES.copy()}
    bad[where][..., 0] = np.nan
    with pytest.raises(UserError, match=r"not a number: this checkpoint diverged; choose another run"):
        answers(bad["certain"], bad["passes"], "multiclass", CLASSES, None)
