"""What a run's own evaluation recorded for its predictions: the calibrator, and the thresholds."""

import glob
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cxr_dist.config.decode import parse_record
from cxr_dist.evaluate.calibration import Calibrator
from cxr_dist.evaluate.set_rule import SetThresholds, recorded_thresholds


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """All were chosen on validation."""

    calibrator: Calibrator | None = None
    """None without an evaluation that chose one."""
    thresholds: Mapping[str, float] = field(default_factory=dict)
    """Class -> threshold of the calibrated probability, for classes that have one."""
    sets: SetThresholds = field(default_factory=dict)
    """The thresholds of the prediction sets; empty if an earlier version made the evaluation."""


def recorded_by_evaluation(run_dir: Path, step: int, manifest_sha256: str, classes: tuple[str, ...]) -> Recorded:
    """What an evaluation of this checkpoint on the run's own shards recorded; nothing without such an evaluation.

    Earlier versions wrote evaluations of other shards to the same place, which the sha256 of the manifest tells apart.
    """
    for path in sorted(glob.glob("evaluation/*/metrics.json", root_dir=run_dir)):
        evaluation = parse_record(run_dir / path, str(run_dir / path))
        own = (evaluation.get("checkpoint_step"), evaluation.get("manifest_sha256")) == (step, manifest_sha256)
        if own and evaluation.get("external") is None:
            calibration = evaluation.get("calibration")
            if calibration is not None:
                calibrator = Calibrator.recorded(calibration, classes)
                thresholds = _thresholds(evaluation, calibrator, classes)
                sets = recorded_thresholds(evaluation.get("conformal"))
                return Recorded(calibrator=calibrator, thresholds=thresholds, sets=sets)
    return Recorded()


def _thresholds(
    evaluation: Mapping[str, Any], calibrator: Calibrator | None, classes: tuple[str, ...]
) -> dict[str, float]:
    points = (evaluation.get("operating_points") or {}).get("per_class", {})
    chosen = {name: points[name]["threshold"] for name in classes if name in points}
    found = {name: float(value) for name, value in chosen.items() if value is not None}
    if calibrator is None or "prior_shift" in evaluation["calibration"]:
        return found
    # Earlier versions chose thresholds for probabilities that were not calibrated. As the calibration of a label is
    # monotone, the calibrated threshold decides the same; that of a class among others is not.
    if evaluation["metrics"]["task"] == "multiclass":
        return {}
    values = np.array([found.get(name, 0.5) for name in classes])
    calibrated = dict(zip(classes, calibrator.apply(values, "multilabel").tolist(), strict=True))
    return {name: calibrated[name] for name in found}
