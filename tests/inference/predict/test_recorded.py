"""Calibrator and thresholds of a prediction are those of the run's own evaluation of the same checkpoint."""

import json

import numpy as np
import pytest

from cxr_dist.evaluate.calibration import Calibrator
from cxr_dist.inference.recorded import Recorded, recorded_by_evaluation

CLASSES = ("a", "b")
POINTS = {"per_class": {"a": {"threshold": 0.2}, "b": {"threshold": None, "reason": "validation lacks positives"}}}
SHA256 = "5" * 64
FITTED = {"temperature": 2.0, "prior_shift": {"a": 1.0, "b": 0.0}, "bias": {"a": 0.0, "b": 0.5}}


def written(run_dir, name, **changes):
    folder = run_dir / "evaluation" / name
    folder.mkdir(parents=True)
    facts = {"checkpoint_step": 7, "manifest_sha256": SHA256, "metrics": {"task": "multilabel"}, "external": None}
    facts |= {"calibration": FITTED, "operating_points": POINTS}
    (folder / "metrics.json").write_text(json.dumps(facts | changes))


def test_both_are_read_from_the_evaluation_of_the_checkpoint(tmp_path):
    written(tmp_path, "another", external={"name": "another"}, calibration=FITTED | {"temperature": 9.0})
    written(tmp_path, "test")
    written(tmp_path, "val", calibration=None, operating_points=None)
    expected = Calibrator(prior_shift=(1.0, 0.0), temperature=2.0, bias=(0.0, 0.5))
    assert recorded_by_evaluation(tmp_path, 7, SHA256, CLASSES) == Recorded(calibrator=expected, thresholds={"a": 0.2})
    assert recorded_by_evaluation(tmp_path, 8, SHA256, CLASSES) == Recorded()


def test_thresholds_of_sets_are_read_where_an_evaluation_has_them(tmp_path):
    per_outcome = {"a/present": {"threshold": 0.3, "n": 20}, "a/absent": {"threshold": None, "n": 3, "reason": "few"}}
    written(tmp_path, "test", conformal={"per_outcome": per_outcome})
    assert recorded_by_evaluation(tmp_path, 7, SHA256, CLASSES).sets == {"a/present": 0.3, "a/absent": None}


def test_a_threshold_of_an_earlier_version_decides_the_same_for_the_calibrated_probability(tmp_path):
    """Earlier versions chose thresholds for probabilities that were not calibrated."""
    written(tmp_path, "test", calibration={"temperature": 2.0})
    recorded = recorded_by_evaluation(tmp_path, 7, SHA256, CLASSES)
    assert set(recorded.thresholds) == {"a"}
    assert recorded.thresholds["a"] == pytest.approx(1 / 3)  # logit(0.2) / 2 = logit(1/3)
    raw = np.linspace(0.01, 0.99, 99)
    calibrated = recorded.calibrator.apply(np.stack([raw, raw], axis=1), "multilabel")[:, 0]
    close = np.abs(raw - 0.2) < 1e-9
    np.testing.assert_array_equal((calibrated >= recorded.thresholds["a"])[~close], (raw >= 0.2)[~close])


def test_an_earlier_version_s_evaluation_of_other_shards_is_not_the_run_s_own(tmp_path):
    """Earlier versions wrote it to the same place and did not mark it."""
    written(tmp_path, "test", manifest_sha256="6" * 64)
    assert recorded_by_evaluation(tmp_path, 7, SHA256, CLASSES) == Recorded()


def test_a_multiclass_threshold_of_an_earlier_version_is_not_used(tmp_path):
    """The temperature moves the probability of a class by those of the others, so no threshold decides the same."""
    written(tmp_path, "test", calibration={"temperature": 2.0}, metrics={"task": "multiclass"})
    recorded = recorded_by_evaluation(tmp_path, 7, SHA256, CLASSES)
    assert recorded.calibrator is not None
    assert recorded.thresholds == {}
