"""Predictions for cases from outside the shards: probabilities, their spread over the passes, and entropies."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from cxr_dist.errors import UserError
from cxr_dist.evaluate.arrays import Floats
from cxr_dist.evaluate.calibration import Calibrator
from cxr_dist.evaluate.predictions import decide
from cxr_dist.evaluate.uncertainty import McSummary, summarise
from cxr_dist.format.manifest import Task

_INTERVAL = (0.025, 0.975)
_DIGITS = 6


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Predictions for b cases and C classes."""

    task: Task
    classes: tuple[str, ...]
    probabilities: Floats
    """[b, C], from the deterministic pass, not calibrated."""
    calibrated: Floats | None
    """[b, C], `probabilities` as calibrated on validation; None if there is no calibration."""
    mc: McSummary | None
    """Summary of the stochastic passes, calibrated as `calibrated` is; None if none were run."""
    interval: Floats | None
    """[2, b, C], 2.5% and 97.5% percentiles over the passes, interpolated; None if none were run.

    Unlike mean ± 1.96 standard deviations, percentiles stay in [0, 1] and follow a skewed distribution.
    """

    def __len__(self) -> int:
        return len(self.probabilities)

    @property
    def shown(self) -> Floats:
        """[b, C], the mean over the passes, or `headline` if none were run."""
        return self.headline if self.mc is None else self.mc.mean

    @property
    def headline(self) -> Floats:
        """[b, C], the calibrated probabilities, or, without a calibration, the probabilities."""
        return self.probabilities if self.calibrated is None else self.calibrated

    def columns(self, row: int) -> dict[str, Any]:
        """One case as a table row, with the column names of predictions.csv."""
        decided = decide(self.headline[row : row + 1], self.task)
        cells: dict[str, Any] = {}
        if self.task == "multiclass":
            cells["predicted"] = self.classes[int(decided[0])]
        else:
            cells |= {f"predicted:{c}": int(d) for c, d in zip(self.classes, decided[0], strict=True)}
        for quantity, values in self._per_class(row).items():
            cells |= {f"{quantity}:{name}": value for name, value in values.items()}
        return cells | self._per_case(row)

    def to_dict(self, row: int) -> dict[str, Any]:
        """One case for JSON: for each quantity, class name -> value; entropies in nats."""
        entropies = {f"{name}_nats": value for name, value in self._per_case(row).items()}
        return {**self._per_class(row), **entropies, "mc_passes": self.mc.passes if self.mc else 0}

    def _per_class(self, row: int) -> dict[str, dict[str, float]]:
        quantities: dict[str, Floats | None] = {
            "probability": self.probabilities,
            "calibrated": self.calibrated,
        }
        if self.mc is not None and self.interval is not None:
            quantities |= {"mc_mean": self.mc.mean, "mc_deviation": np.sqrt(self.mc.variance)}
            quantities |= {"mc_low": self.interval[0], "mc_high": self.interval[1]}
        return {
            name: dict(zip(self.classes, values[row].round(_DIGITS).tolist(), strict=True))
            for name, values in quantities.items()
            if values is not None
        }

    def _per_case(self, row: int) -> dict[str, float]:
        names = ("predictive_entropy", "expected_entropy", "mutual_information")
        return {n: round(float(getattr(self.mc, n)[row]), _DIGITS) for n in names if self.mc is not None}


def answers(
    certain: Floats, passes: Floats | None, task: Task, classes: tuple[str, ...], calibrator: Calibrator | None
) -> Answers:
    """Answers from the results of `predict_passes`, [b, C] and [P, b, C]; raises UserError if one is not finite."""
    if not np.isfinite(certain).all() or not (passes is None or np.isfinite(passes).all()):
        raise UserError("a probability is not a number: this checkpoint diverged; choose another run")
    calibrated = None
    if calibrator is not None and calibrator.method != "none":
        calibrated = calibrator.apply(certain, task)
        passes = None if passes is None else calibrator.apply(passes, task)
    return Answers(
        task=task,
        classes=classes,
        probabilities=certain,
        calibrated=calibrated,
        mc=None if passes is None else summarise(passes, task),
        interval=None if passes is None else np.quantile(passes, _INTERVAL, axis=0),
    )
