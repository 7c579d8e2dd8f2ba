"""The rule of a prediction set: which outcomes it holds, given the thresholds that conformal.py chose on validation."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cxr_dist.evaluate.arrays import Bools, Floats
from cxr_dist.format.manifest import Task

PERCENT = 90
OUTCOMES = ("present", "absent")
"""The outcomes of one label of a multilabel task, in order."""

SetThresholds = Mapping[str, float | None]
"""Outcome -> the least uncalibrated probability with which it is in the set; None if it is in every set."""


def outcomes_of(classes: Sequence[str], task: Task) -> list[str]:
    """The names of the k outcomes: the classes, or for multilabel `CLASS/present` and `CLASS/absent` of each."""
    return list(classes) if task == "multiclass" else [f"{name}/{outcome}" for name in classes for outcome in OUTCOMES]


def probabilities_of_outcomes(raw: Floats, task: Task) -> Floats:
    """The probability of each outcome, [n, k], from those of the classes, [n, C]."""
    return raw if task == "multiclass" else np.stack([raw, 1 - raw], axis=2).reshape(len(raw), -1)


def in_set(raw: Floats, task: Task, thresholds: SetThresholds) -> Bools:
    """Whether each outcome is in the set of each case, [n, k], from uncalibrated probabilities [n, C].

    `thresholds` are in the order of `outcomes_of`.
    """
    least = np.array([-np.inf if value is None else value for value in thresholds.values()])
    return np.asarray(probabilities_of_outcomes(raw, task) >= least)


def recorded_thresholds(block: Mapping[str, Any] | None) -> dict[str, float | None]:
    """Outcome -> threshold in the block `conformal` of a metrics.json; empty if there is none."""
    per_outcome = {} if block is None else block["per_outcome"]
    return {name: each["threshold"] for name, each in per_outcome.items()}
