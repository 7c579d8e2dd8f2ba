"""How well uncertainty separates wrong predictions from right ones: risk–coverage curves and their area.

A model that may abstain predicts only where it is least uncertain. Coverage is the share of samples that it predicts,
risk the share of mistakes among these. Results are expectations over a random order of equally uncertain predictions.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from cxr_dist.evaluate.arrays import Bools, Floats
from cxr_dist.evaluate.bootstrap import weighted_counts
from cxr_dist.evaluate.predictions import Predictions, decide
from cxr_dist.evaluate.uncertainty import McSummary, entropy, quarter_figures
from cxr_dist.format.manifest import UNKNOWN

COVERAGES = (0.80, 0.90, 0.95)


def mc_answers(predictions: Predictions) -> tuple[Floats, Bools]:
    """(predictive entropy [m], whether right [m]) of the answers given by the mean over the stochastic passes.

    An answer is a sample's predicted class (m = n), or for multilabel the prediction for one known label of a sample.
    """
    mc, labels = predictions.mc, predictions.labels
    assert mc is not None, "no stochastic passes were run"
    decided = decide(mc.mean, predictions.task)
    if predictions.task == "multiclass":
        return mc.predictive_entropy, decided == labels[:, 0]
    known = labels != UNKNOWN
    return entropy(mc.mean[known][:, None], "multilabel"), (decided == labels)[known]


def samples_of_answers(predictions: Predictions) -> NDArray[np.int64]:
    """Index [m] of the sample that each answer of `mc_answers` belongs to."""
    if predictions.task == "multiclass":
        return np.arange(len(predictions))
    return np.nonzero(predictions.labels != UNKNOWN)[0]


def measures(predictions: Predictions) -> dict[str, Floats]:
    """Each measure of uncertainty of the answers, [m].

    Mutual information belongs to a sample's whole distribution, so the single labels of multilabel have none.
    """
    mc, (total, _) = predictions.mc, mc_answers(predictions)
    assert mc is not None
    measured = {"predictive_entropy": total}
    if predictions.task == "multilabel":
        return measured | {"variance": mc.variance[predictions.labels != UNKNOWN]}
    return measured | {"mutual_information": mc.mutual_information, "variance": mc.variance.mean(axis=1)}


def mc_metrics(predictions: Predictions, mc: McSummary) -> dict[str, Any]:
    """The `uncertainty` block of the metrics; a value over no answers is None."""
    measured = measures(predictions)
    uncertainty, right = mc_answers(predictions)
    return {
        "passes": mc.passes,
        "answers": len(right),
        "accuracy": _mean(right.astype(np.float64)),
        "predictive_entropy": {"right": _mean(uncertainty[right]), "wrong": _mean(uncertainty[~right])},
        "expected_entropy": _mean(mc.expected_entropy),
        "mutual_information": _mean(mc.mutual_information),
        "variance": _mean(measured["variance"]),
        "error_auroc": {name: error_auroc(values, right) for name, values in measured.items()},
        **coverage_figures(uncertainty, right),
        **quarter_figures(uncertainty, right),
    }


def coverage_figures(uncertainty: Floats, right: Bools) -> dict[str, Any]:
    """aurc, excess_aurc (aurc minus that of a perfect ranking, with all mistakes last), and accuracy at COVERAGES."""
    if len(right) == 0:
        at_coverage = {f"{coverage:.2f}": None for coverage in COVERAGES}
        return {"aurc": None, "excess_aurc": None, "accuracy_at_coverage": at_coverage}
    once = np.ones((1, len(right)))
    area = float(weighted_aurc(uncertainty, right, once)[0])
    best = float(weighted_aurc((~right).astype(np.float64), right, once)[0])
    return {
        "aurc": area,
        "excess_aurc": max(area - best, 0.0),
        "accuracy_at_coverage": {f"{c:.2f}": accuracy_at(c, uncertainty, right) for c in COVERAGES},
    }


def error_auroc(uncertainty: Floats, right: Bools) -> float | None:
    """ROC AUC of the uncertainty for finding mistakes; None if all answers are right or all are wrong."""
    return float(roc_auc_score(~right, uncertainty)) if right.any() and not right.all() else None


def risk_coverage(uncertainty: Floats, right: Bools) -> tuple[Floats, Floats]:
    """(coverage, risk), each [k]; equally uncertain answers are added together, as one point of the curve."""
    answered, wrong = (part[0] for part in _cumulated(uncertainty, right, np.ones((1, len(right)))))
    return answered / len(right), wrong / answered


def accuracy_at(coverage: float, uncertainty: Floats, right: Bools) -> float:
    """Share of right answers among the ⌈coverage · m⌉ least uncertain."""
    answered, wrong = (part[0] for part in _cumulated(uncertainty, right, np.ones((1, len(right)))))
    # Rounding, so that the error of the product does not ask for one answer more: 0.95 · 20 is 19.
    wanted = np.ceil(round(coverage * len(right), 6))
    return float(1 - np.interp(wanted, np.r_[0, answered], np.r_[0, wrong]) / wanted)


def weighted_aurc(uncertainty: Floats, right: Bools, weights: Floats) -> Floats:
    """Area under the risk–coverage curve [B] of m answers, under integer weights [B, m].

    The area is the mean of the risk over the coverages 1/m, 2/m, …, 1 (Geifman, Uziel and El-Yaniv, ICLR 2019), where
    an answer of weight 2 counts twice; NaN in a row whose weights are all 0.
    """
    if len(right) == 0:
        return np.full(len(weights), np.nan)
    answered, wrong = _cumulated(uncertainty, right, weights)
    before, wrong_before = (np.pad(part[:, :-1], ((0, 0), (1, 0))) for part in (answered, wrong))
    size = answered - before
    rate = np.divide(wrong - wrong_before, size, out=np.zeros_like(size), where=size > 0)
    # Harmonic numbers give the sum of (wrong before + (k - before) · rate) / k over the k-th answers of a group.
    most = int(answered[:, -1].max())
    harmonic = np.r_[0.0, np.cumsum(1 / np.arange(1, most + 1))]
    steps = harmonic[answered.astype(np.int64)] - harmonic[before.astype(np.int64)]
    area: Floats = ((wrong_before - before * rate) * steps + rate * size).sum(axis=1)
    area[answered[:, -1] == 0] = np.nan
    return area / np.maximum(answered[:, -1], 1)


def _cumulated(uncertainty: Floats, right: Bools, weights: Floats) -> tuple[Floats, Floats]:
    """Weight of all answers, and of the mistakes, up to each distinct uncertainty, each [B, k]."""
    wrong, correct = weighted_counts(~right, -uncertainty, weights)
    return wrong + correct, wrong


def _mean(values: Floats) -> float | None:
    return float(values.mean()) if len(values) else None
