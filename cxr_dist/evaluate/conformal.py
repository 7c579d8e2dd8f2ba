"""Prediction sets that contain the truth with a promised probability, chosen on validation: conformal prediction.

Split conformal prediction (Vovk, Gammerman and Shafer 2005) within each label (Mondrian; Vovk 2012; Sadinle, Lei and
Wasserman, JASA 2019): a class is in the set of a case if its probability is at least a threshold, and the threshold of
a class is the ⌈(n + 1) · 0.9⌉-th largest probability that its n validation cases got for it. For a new patient who is
exchangeable with them, the set then contains the true class with a probability of at least 90%, whatever the class. A
multilabel task has such a set for each label, of "present" and "absent".

The promise needs exchangeable cases. The images of one patient are not, so one image of each patient, drawn by a hash,
counts. The probabilities are those of the model before calibration, because the calibrator was fitted to these cases.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_dist.data.random import permutation
from cxr_dist.evaluate import wilson
from cxr_dist.evaluate.arrays import Bools, Floats
from cxr_dist.evaluate.bootstrap import interval, patient_weights
from cxr_dist.evaluate.predictions import Predictions
from cxr_dist.evaluate.set_rule import (
    OUTCOMES,
    PERCENT,
    SetThresholds,
    in_set,
    outcomes_of,
    probabilities_of_outcomes,
)
from cxr_dist.evaluate.subgroups import UNKNOWN_VALUE

LEAST = 9
"""With fewer validation patients of an outcome, no threshold keeps the promise, and the outcome is in every set."""
_SEED = 0


def conformal_threshold(probabilities: Floats) -> float | None:
    """The threshold from the probabilities [n] that cases of an outcome got for it; None if n is less than LEAST."""
    n = len(probabilities)
    rank = -(-(n + 1) * PERCENT // 100)  # ⌈(n + 1) · 0.9⌉ in integers, without rounding
    return None if rank > n else float(np.sort(probabilities)[n - rank])


def _truth(predictions: Predictions) -> Bools:
    """Whether each outcome is the truth, [n, k]; neither outcome of an unknown label is."""
    if predictions.task == "multiclass":
        return np.asarray(predictions.labels == np.arange(len(predictions.classes)))
    labels = predictions.labels
    return np.stack([labels == 1, labels == 0], axis=2).reshape(len(labels), -1)


def conformal(
    validation: Predictions, test: Predictions, chosen_on: Mapping[str, Any], n_bootstrap: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """The block `conformal` of metrics.json: thresholds of the outcomes, and coverage and size of the sets on `test`.

    Args:
        validation: Predictions on validation, of which the uncalibrated probabilities are used.
        test: Predictions on another split, with its attributes.
        chosen_on: Which validation split this is, as in `CalibratorChoice.chosen_on`.
        n_bootstrap: Number of resamples of the patients, for the intervals of the mean size.
        seed: The seed of the bootstrap.

    Coverage is the share of cases (for multilabel, of known labels) whose set contains the truth, with Wilson's
    interval over patients; for a class, of the cases of that class. Values are {"value", "low", "high"}, null where
    undefined.
    """
    names = outcomes_of(validation.classes, validation.task)
    found = [_choose(validation, outcome) for outcome in range(len(names))]
    thresholds: SetThresholds = {name: value for name, (value, _) in zip(names, found, strict=True)}
    judged = _Judged.of(test, thresholds)
    per_outcome = {
        name: {"threshold": value, "n": n}
        | ({} if value is not None else {"reason": f"fewer than {LEAST} validation patients: in every set"})
        | {"coverage": judged.coverage(outcome)}
        for outcome, (name, (value, n)) in enumerate(zip(names, found, strict=True))
    }
    sizes = np.bincount(judged.sizes.ravel(), minlength=judged.most + 1)
    everyone = np.ones(len(test), dtype=np.bool_)
    return {
        "level": PERCENT / 100,
        "chosen_on": dict(chosen_on),
        "probabilities": "uncalibrated",
        "per_outcome": per_outcome,
        **judged.summary(everyone, n_bootstrap, seed),
        "sizes": {str(size): int(count) for size, count in enumerate(sizes)},
        "subgroups": {
            attribute: {
                value or UNKNOWN_VALUE: judged.summary(np.array(values) == value, n_bootstrap, seed)
                for value in sorted(set(values), key=lambda value: (value == "", value))
            }
            for attribute, values in test.attributes.items()
            if len(set(values)) > 1
        },
    }


def _choose(validation: Predictions, outcome: int) -> tuple[float | None, int]:
    """The threshold of an outcome, and the number of patients that it is chosen on."""
    order = permutation(len(validation), _SEED)
    rows = order[_truth(validation)[order, outcome]]
    first = np.unique(np.array(validation.patients)[rows], return_index=True)[1]
    chosen = probabilities_of_outcomes(validation.raw, validation.task)[rows[first], outcome]
    return conformal_threshold(chosen), len(chosen)


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """The sets of n cases, q for each: one for a multiclass task, one for each label of a multilabel task."""

    patients: NDArray[np.str_]
    truth: Bools
    """[n, k], whether an outcome is the truth."""
    covered: Bools
    """[n, k], whether an outcome is the truth and in the set."""
    sizes: NDArray[np.int64]
    """[n, q], the number of outcomes in each set of a label that is evaluated."""
    most: int
    """The largest possible size."""

    @classmethod
    def of(cls, test: Predictions, thresholds: SetThresholds) -> "_Judged":
        inside, truth = in_set(test.raw, test.task, thresholds), _truth(test)
        sizes, most = inside.sum(axis=1, keepdims=True), inside.shape[1]
        if test.task == "multilabel":
            evaluated = [name not in test.not_evaluated for name in test.classes]
            most = len(OUTCOMES)
            sizes = inside.reshape(len(test), -1, most).sum(axis=2)[:, evaluated]
        patients = np.array(test.patients)
        return cls(patients=patients, truth=truth, covered=truth & inside, sizes=sizes.astype(np.int64), most=most)

    def coverage(self, outcome: int | None = None, rows: Bools | None = None) -> dict[str, float | None]:
        """The share of true outcomes (of one, or of all) that are in their sets, over these cases."""
        kept = np.ones(len(self.truth), dtype=np.bool_) if rows is None else rows
        columns = slice(None) if outcome is None else [outcome]
        patient_of = np.unique(self.patients[kept], return_inverse=True)[1]
        hits, trials = (
            np.bincount(patient_of, each[kept][:, columns].sum(axis=1)).astype(np.float64)
            for each in (self.covered, self.truth)
        )
        bounds = wilson.share(hits, trials)
        if bounds is None:
            return {"value": None, "low": None, "high": None}
        wide = int((trials > 0).sum()) > 1
        return {"value": bounds.value, "low": bounds.low if wide else None, "high": bounds.high if wide else None}

    def summary(self, rows: Bools, n_bootstrap: int, seed: int) -> dict[str, Any]:
        """The number of these cases and patients, the coverage of all outcomes, and the mean size of the sets."""
        patients, sizes = self.patients[rows], self.sizes[rows].mean(axis=1)
        number = len(np.unique(patients))
        low = high = None
        if number > 1:
            chunks = patient_weights(patients.tolist(), n_bootstrap, seed)
            means = np.concatenate([weights @ sizes / weights.sum(axis=1) for weights in chunks])
            low, high = (interval(means)[side] for side in ("low", "high"))
        return {
            "n": int(rows.sum()),
            "patients": number,
            "coverage": self.coverage(rows=rows),
            "mean_size": {"value": float(sizes.mean()), "low": low, "high": high},
        }
