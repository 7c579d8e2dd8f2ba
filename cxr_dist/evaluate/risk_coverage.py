"""How far uncertainty tells mistakes apart: uncertainty and right or wrong in, risk over coverage out.

A model that may abstain answers only where it is surest: coverage is the share answered, risk the share of
mistakes among those. Equally uncertain answers are taken in random order, and the expectation is reported.
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
    """([m] predictive entropy, [m] whether right) of the answers of the mean over the stochastic passes.

    An answer is a sample's class (m = n), or for multilabel one known label of one sample.
    """
    mc, labels = predictions.mc, predictions.labels
    assert mc is not None, "no stochastic passes were run"
    decided = decide(mc.mean, predictions.task)
    if predictions.task == "multiclass":
        return mc.predictive_entropy, decided == labels[:, 0]
    known = labels != UNKNOWN
    return entropy(mc.mean[known][:, None], "multilabel"), (decided == labels)[known]


def samples_of_answers(predictions: Predictions) -> NDArray[np.int64]:
    """[m] the sample that each answer of `mc_answers` belongs to."""
    if predictions.task == "multiclass":
        return np.arange(len(predictions))
    return np.nonzero(predictions.labels != UNKNOWN)[0]


def measures(predictions: Predictions) -> dict[str, Floats]:
    """Each measure of uncertainty of the answers, [m].

    Mutual information is that of a sample's whole distribution, and so not given for the labels of multilabel.
    """
    mc, (total, _) = predictions.mc, mc_answers(predictions)
    assert mc is not None
    if predictions.task == "multilabel":
        return {"predictive_entropy": total, "variance": mc.variance[predictions.labels != UNKNOWN]}
    return {
        "predictive_entropy": total,
        "mutual_information": mc.mutual_information,
        "variance": mc.variance.mean(axis=1),
    }


def mc_metrics(predictions: Predictions, mc: McSummary) -> dict[str, Any]:
    """The `uncertainty` block of the metrics; a value is None where there is nothing to take it over."""
    found = measures(predictions)
    doubt, right = mc_answers(predictions)
    return {
        "passes": mc.passes,
        "answers": len(right),
        "accuracy": _mean(right.astype(np.float64)),
        "predictive_entropy": {"right": _mean(doubt[right]), "wrong": _mean(doubt[~right])},
        "expected_entropy": _mean(mc.expected_entropy),
        "mutual_information": _mean(mc.mutual_information),
        "variance": _mean(found["variance"]),
        "error_auroc": {name: error_auroc(values, right) for name, values in found.items()},
        **coverage_figures(doubt, right),
        **quarter_figures(doubt, right),
    }


def coverage_figures(uncertainty: Floats, right: Bools) -> dict[str, Any]:
    """aurc, excess_aurc (over that of an uncertainty that ranks every mistake last), and accuracy at coverages."""
    if len(right) == 0:
        return {"aurc": None, "excess_aurc": None, "accuracy_at_coverage": dict.fromkeys(_names(), None)}
    once = np.ones((1, len(right)))
    area = float(weighted_aurc(uncertainty, right, once)[0])
    best = float(weighted_aurc((~right).astype(np.float64), right, once)[0])
    at = [accuracy_at(coverage, uncertainty, right) for coverage in COVERAGES]
    return {
        "aurc": area,
        "excess_aurc": max(area - best, 0.0),
        "accuracy_at_coverage": dict(zip(_names(), at, strict=True)),
    }


def error_auroc(uncertainty: Floats, right: Bools) -> float | None:
    """ROC AUC of the uncertainty for finding mistakes; None without a mistake, or without a right answer."""
    return float(roc_auc_score(~right, uncertainty)) if right.any() and not right.all() else None


def risk_coverage(uncertainty: Floats, right: Bools) -> tuple[Floats, Floats]:
    """(coverage, risk), each [k] in (0, 1], where whole groups of equally uncertain answers are let in."""
    answered, wrong = (part[0] for part in _cumulated(uncertainty, right, np.ones((1, len(right)))))
    return answered / len(right), wrong / answered


def accuracy_at(coverage: float, uncertainty: Floats, right: Bools) -> float:
    """Share of right answers among the ⌈coverage · m⌉ least uncertain."""
    answered, wrong = (part[0] for part in _cumulated(uncertainty, right, np.ones((1, len(right)))))
    # The product's rounding must not ask for one answer more: 0.95 · 20 is 19.
    wanted = np.ceil(round(coverage * len(right), 6))
    return float(1 - np.interp(wanted, np.r_[0, answered], np.r_[0, wrong]) / wanted)


def weighted_aurc(uncertainty: Floats, right: Bools, weights: Floats) -> Floats:
    """[B] area under the risk–coverage curve of m answers under B rows of whole weights [B, m].

    The mean of the risk over the coverages 1/m, 2/m, …, 1 (Geifman, Uziel and El-Yaniv, ICLR 2019), where an
    answer of weight 2 is there twice; NaN in a row without weight.
    """
    if len(right) == 0:
        return np.full(len(weights), np.nan)
    answered, wrong = _cumulated(uncertainty, right, weights)
    before, wrong_before = (np.pad(part[:, :-1], ((0, 0), (1, 0))) for part in (answered, wrong))
    size = answered - before
    rate = np.divide(wrong - wrong_before, size, out=np.zeros_like(size), where=size > 0)
    # Σ over the k-th answers of a group of (wrong before + (k - before) · rate) / k, by harmonic numbers.
    most = int(answered[:, -1].max())
    harmonic = np.r_[0.0, np.cumsum(1 / np.arange(1, most + 1))]
    steps = harmonic[answered.astype(np.int64)] - harmonic[before.astype(np.int64)]
    area: Floats = ((wrong_before - before * rate) * steps + rate * size).sum(axis=1)
    area[answered[:, -1] == 0] = np.nan
    return area / np.maximum(answered[:, -1], 1)


def _cumulated(uncertainty: Floats, right: Bools, weights: Floats) -> tuple[Floats, Floats]:
    """Weight of the answers, and of the mistakes, up to each distinct uncertainty, [B, k]."""
    wrong, correct = weighted_counts(~right, -uncertainty, weights)
    return wrong + correct, wrong


def _names() -> list[str]:
    return [f"{coverage:.2f}" for coverage in COVERAGES]


def _mean(values: Floats) -> float | None:
    return float(values.mean()) if len(values) else None
