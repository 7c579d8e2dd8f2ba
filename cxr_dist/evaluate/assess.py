"""The assessment of one split's predictions for metrics.json: metrics, intervals, calibration, thresholds.

The calibrator and the operating points are chosen on the predictions of the validation split and applied to those of
another split. Without validation predictions, and on validation itself, both are null.
"""

from typing import Any

from cxr_dist.evaluate.calibrator_choice import CalibratorChoice
from cxr_dist.evaluate.conformal import conformal
from cxr_dist.evaluate.intervals import intervals
from cxr_dist.evaluate.metrics import compute_metrics
from cxr_dist.evaluate.predictions import Predictions
from cxr_dist.evaluate.subgroups import subgroups
from cxr_dist.evaluate.thresholds import operating_points


def assess(
    predictions: Predictions,
    validation: Predictions | None,
    choice: CalibratorChoice | None = None,
    at_sensitivity: float | None = None,
    n_bootstrap: int = 1000,
) -> dict[str, Any]:
    """The blocks metrics, intervals, calibration, operating_points, subgroups and conformal, as plain numbers.

    All but `calibration.before` and `conformal` judge the calibrated probabilities.

    Args:
        predictions: The predictions of a split, calibrated by `choice` if there is one.
        validation: The raw predictions on validation, on which `choice` was made; None for none.
        choice: The calibrator; needed with `validation`.
        at_sensitivity: The least sensitivity of the thresholds; None for Youden's rule.
        n_bootstrap: Number of resamples for the intervals.
    """
    blocks: dict[str, Any] = {
        "metrics": compute_metrics(predictions),
        "intervals": intervals(predictions, n_bootstrap),
        "calibration": None,
        "operating_points": None,
        "subgroups": subgroups(predictions, n_bootstrap),
        "conformal": None,
    }
    if validation is not None and choice is not None:
        chosen_on = validation.calibrated(choice.calibrator)
        points = operating_points(chosen_on, predictions, at_sensitivity)
        blocks["calibration"] = choice.judged_on(predictions)
        blocks["operating_points"] = {"chosen_on": choice.chosen_on} | points
        blocks["conformal"] = conformal(validation, predictions, choice.chosen_on, n_bootstrap)
    return blocks
