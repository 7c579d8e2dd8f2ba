"""The assessment of one split's predictions for metrics.json: metrics, intervals, calibration, thresholds.

The temperature and the operating points are chosen on the predictions of the validation split and applied to those
of another split. Without validation predictions, and on validation itself, both are null.
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
    blocks: dict[str, Any] = {
        "metrics": compute_metrics(predictions),
        "intervals": intervals(predictions, n_bootstrap),
        "calibration": None,
        "operating_points": None,
        "subgroups": subgroups(predictions, n_bootstrap),
    }
    if validation is not None:
        split = {"split": "val", "n": len(validation), "patients": len(set(validation.patients))}
        fitted_on, applied_to = ((p.probabilities, p.labels) for p in (validation, predictions))
        points = operating_points(validation, predictions, at_sensitivity, n_bootstrap)
        blocks["calibration"] = {"chosen_on": split} | calibrate(fitted_on, applied_to, predictions.task)
        blocks["operating_points"] = {"chosen_on": split} | points
    return blocks
