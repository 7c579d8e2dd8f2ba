"""Everything that metrics.json says of one split's predictions: metrics, intervals, calibration, thresholds.

What is chosen (the temperature, the operating points) is chosen on the validation split's predictions and
applied to those of another split; without them, and on validation itself, it is null.
"""

from typing import Any

from cxr_dist.evaluate.calibration import calibrate
from cxr_dist.evaluate.intervals import intervals
from cxr_dist.evaluate.metrics import compute_metrics
from cxr_dist.evaluate.predictions import Predictions
from cxr_dist.evaluate.subgroups import subgroups
from cxr_dist.evaluate.thresholds import operating_points


def assess(
    predictions: Predictions,
    validation: Predictions | None,
    at_sensitivity: float | None = None,
    n_bootstrap: int = 1000,
) -> dict[str, Any]:
    """The blocks metrics, intervals, calibration, operating_points and subgroups, as plain numbers."""
    return {
        "metrics": compute_metrics(predictions),
        "intervals": intervals(predictions, n_bootstrap),
        "calibration": _calibration(predictions, validation),
        "operating_points": _operating_points(predictions, validation, at_sensitivity, n_bootstrap),
        "subgroups": subgroups(predictions, n_bootstrap),
    }


def _chosen_on(validation: Predictions) -> dict[str, Any]:
    return {"split": "val", "n": len(validation), "patients": len(set(validation.patients))}


def _calibration(predictions: Predictions, validation: Predictions | None) -> dict[str, Any] | None:
    if validation is None:
        return None
    pairs = [(p.probabilities, p.labels) for p in (validation, predictions)]
    return {"chosen_on": _chosen_on(validation)} | calibrate(pairs[0], pairs[1], predictions.task)


def _operating_points(
    predictions: Predictions, validation: Predictions | None, at_sensitivity: float | None, n_bootstrap: int
) -> dict[str, Any] | None:
    if validation is None:
        return None
    found = operating_points(validation, predictions, at_sensitivity, n_bootstrap)
    return {"chosen_on": _chosen_on(validation)} | found
