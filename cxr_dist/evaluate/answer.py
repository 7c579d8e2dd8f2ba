"""Predictions for cases from outside the shards: probabilities, their spread over the passes, and entropies.

The headline is the probability that every output shows first: calibrated on validation where there is a calibration.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import compress
from typing import Any

import numpy as np

from cxr_dist.errors import UserError
from cxr_dist.evaluate.arrays import Floats
from cxr_dist.evaluate.calibration import Calibrator
from cxr_dist.evaluate.predictions import decide
from cxr_dist.evaluate.set_rule import OUTCOMES, PERCENT, SetThresholds, in_set
from cxr_dist.evaluate.uncertainty import McSummary, summarise
from cxr_dist.format.manifest import Task

_INTERVAL = (0.025, 0.975)
_DIGITS = 6
_DEFAULT_THRESHOLD = 0.5


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
    recorded: Mapping[str, float] = field(default_factory=dict)
    """Class -> the threshold that an evaluation of the model chose on validation, for `headline`."""
    sets: SetThresholds = field(default_factory=dict)
    """The thresholds of the prediction sets that an evaluation of the model chose; empty without one."""

    def __len__(self) -> int:
        return len(self.probabilities)

    @property
    def headline(self) -> Floats:
        """[b, C], the calibrated probabilities, or, without a calibration, the probabilities."""
        return self.probabilities if self.calibrated is None else self.calibrated

    @property
    def kind(self) -> str:
        """What `headline` is, in words."""
        return "probability" if self.calibrated is None else "calibrated probability"

    @property
    def thresholds(self) -> Mapping[str, float] | None:
        """Class -> the threshold from which it is predicted; None if the most probable class is."""
        if self.task == "multiclass":
            return None
        return {name: self.recorded.get(name, _DEFAULT_THRESHOLD) for name in self.classes}

    @property
    def rule(self) -> str:
        """Which classes are predicted, in words."""
        if self.task == "multiclass":
            return "the most probable class"
        without = [name for name in self.classes if name not in self.recorded]
        if len(without) == len(self.classes):
            return f"each class of at least {_DEFAULT_THRESHOLD}"
        default = f" ({_DEFAULT_THRESHOLD} for {', '.join(without)}, without a threshold)" if without else ""
        return f"each class of at least its threshold, which was chosen on validation{default}"

    def predicted(self, row: int) -> tuple[str, ...]:
        """The predicted class, or for multilabel the predicted classes, of one case."""
        values, thresholds = self.headline[row : row + 1], self.thresholds
        if thresholds is None:
            return (self.classes[int(decide(values, self.task)[0])],)
        return tuple(
            name for name, value in zip(self.classes, values[0].tolist(), strict=True) if value >= thresholds[name]
        )

    def prediction_set(self, row: int) -> list[str] | dict[str, list[str]] | None:
        """The classes in the prediction set of one case, or for multilabel class -> the outcomes in its set.

        None if the model has no thresholds for sets.
        """
        if not self.sets:
            return None
        inside = in_set(self.probabilities[row : row + 1], self.task, self.sets)[0].tolist()
        if self.task == "multiclass":
            return list(compress(self.classes, inside))
        pairs = zip(self.classes, inside[::2], inside[1::2], strict=True)
        return {name: list(compress(OUTCOMES, kept)) for name, *kept in pairs}

    def set_in_words(self, row: int) -> str:
        """The prediction set of one case; for multilabel the labels of which "absent" is not the only answer left."""
        held, level = self.prediction_set(row), f"{PERCENT}% prediction set"
        if held is None:
            return ""
        if not isinstance(held, dict):
            return f"{level}: {', '.join(held) or 'empty, no class reaches its threshold'}"
        kinds = {"present": ["present"], "undecided": list(OUTCOMES), "neither": []}
        named = {kind: [name for name, own in held.items() if own == outcomes] for kind, outcomes in kinds.items()}
        words = ", ".join(f"{kind} ({', '.join(names)})" for kind, names in named.items() if names)
        return f"{level}s: {words or 'every label is absent'}"

    def columns(self, row: int) -> dict[str, Any]:
        """One case as a table row, with the column names of predictions.csv."""
        predicted, cells = self.predicted(row), dict[str, Any]()
        if self.task == "multiclass":
            cells["predicted"] = predicted[0]
        else:
            cells |= {f"predicted:{name}": int(name in predicted) for name in self.classes}
        cells |= {f"headline:{name}": value for name, value in self._by_class(self.headline[row]).items()}
        held = self.prediction_set(row)
        if isinstance(held, dict):
            cells |= {f"set:{name}": " or ".join(outcomes) for name, outcomes in held.items()}
        elif held is not None:
            cells |= {f"set:{name}": int(name in held) for name in self.classes}
        for quantity, values in self._per_class(row).items():
            cells |= {f"{quantity}:{name}": value for name, value in values.items()}
        return cells | self._per_case(row)

    def to_dict(self, row: int) -> dict[str, Any]:
        """One case for JSON: the headline, and for each quantity, class name -> value; entropies in nats."""
        headline: dict[str, Any] = {
            "kind": self.kind,
            "values": self._by_class(self.headline[row]),
            "predicted": list(self.predicted(row)),
            "rule": self.rule,
            "thresholds": self.thresholds,
        }
        held = self.prediction_set(row)
        if held is not None:
            headline["prediction_set"] = {"level": PERCENT / 100, "holds": held}
        entropies = {f"{name}_nats": value for name, value in self._per_case(row).items()}
        passes = self.mc.passes if self.mc else 0
        return {"headline": headline, **self._per_class(row), **entropies, "mc_passes": passes}

    def _by_class(self, values: Floats) -> dict[str, float]:
        return dict(zip(self.classes, values.round(_DIGITS).tolist(), strict=True))

    def _per_class(self, row: int) -> dict[str, dict[str, float]]:
        quantities: dict[str, Floats | None] = {
            "probability": self.probabilities,
            "calibrated": self.calibrated,
        }
        if self.mc is not None and self.interval is not None:
            quantities |= {"mc_mean": self.mc.mean, "mc_deviation": np.sqrt(self.mc.variance)}
            quantities |= {"mc_low": self.interval[0], "mc_high": self.interval[1]}
        return {name: self._by_class(values[row]) for name, values in quantities.items() if values is not None}

    def _per_case(self, row: int) -> dict[str, float]:
        names = ("predictive_entropy", "expected_entropy", "mutual_information")
        return {n: round(float(getattr(self.mc, n)[row]), _DIGITS) for n in names if self.mc is not None}


def answers(
    certain: Floats,
    passes: Floats | None,
    task: Task,
    classes: tuple[str, ...],
    calibrator: Calibrator | None,
    thresholds: Mapping[str, float] | None = None,
    sets: SetThresholds | None = None,
) -> Answers:
    """Answers from the results of `predict_passes`, [b, C] and [P, b, C]; raises UserError if one is not finite.

    `thresholds` are those that were recorded for calibrated probabilities, and `sets` those of the prediction sets.
    """
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
        recorded=thresholds or {},
        sets=sets or {},
    )
