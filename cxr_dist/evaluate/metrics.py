"""The metrics of one split's predictions, computed by scikit-learn, as a dictionary for metrics.json.

A metric that is undefined on the split (an AUC with one class only, a precision without a positive prediction) is
null, never 0 or 0.5, and `undefined` gives the reason: {"per_class/NAME/roc_auc": "no positive sample"}. A macro
value is the mean over the classes for which the metric is defined; a micro value pools all known labels.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics as sk

from cxr_dist.evaluate.arrays import Floats
from cxr_dist.evaluate.calibration import reliability, scores
from cxr_dist.evaluate.predictions import OneClass, Predictions
from cxr_dist.evaluate.risk_coverage import mc_metrics

MACRO = (
    "accuracy",
    "balanced_accuracy",
    "precision",
    "recall",
    "f1",
    "specificity",
    "roc_auc",
    "average_precision",
    "brier",
    "ece",
)
"""Metrics of one class against the rest; each also has a mean over classes (macro) and a pooled value (micro)."""
Value = float | None


def compute_metrics(predictions: Predictions) -> dict[str, Any]:
    """All metrics of one split, as plain numbers, in a fixed order.

    accuracy: share of right predictions; multilabel: mean over classes of that share among known labels.
    balanced_accuracy: mean recall over the classes that occur; multilabel: mean over classes of
    (recall + specificity) / 2. log_loss (nats), brier, ece: see `calibration`; multilabel: over all known labels.
    per_class: each class against the rest, with counts, [[tn, fp], [fn, tp]], and the metrics of `MACRO`; there brier
    is the mean of (p - y)², 0 to 1. uncertainty: see `risk_coverage`, only with stochastic passes.
    """
    undefined: dict[str, str] = {}
    per_class = {
        one.name: _class_metrics(one, f"per_class/{one.name}", len(predictions), undefined)
        for one in predictions.each_class()
    }
    values: dict[str, Any] = {
        "task": predictions.task,
        "n": len(predictions),
        "patients": len(set(predictions.patients)),
        "accuracy": _overall("accuracy", (accuracy(predictions), "no known label"), undefined),
        "balanced_accuracy": _overall("balanced_accuracy", _balanced_accuracy(predictions), undefined),
        **_probabilistic(predictions, undefined),
        "macro": {name: _macro(name, per_class.values(), undefined) for name in MACRO},
        "micro": _micro(predictions, undefined),
        "per_class": per_class,
    }
    if predictions.task == "multiclass":
        values["confusion_matrix"] = confusion_matrix(predictions).tolist()
    if predictions.mc is not None:
        values["uncertainty"] = mc_metrics(predictions, predictions.mc)
    return values | {"undefined": undefined}


def confusion_matrix(predictions: Predictions) -> NDArray[np.int64]:
    """Counts [C, C] of a multiclass split: rows are the true class, columns the predicted class."""
    classes = list(range(len(predictions.classes)))
    matrix = sk.confusion_matrix(predictions.labels[:, 0], predictions.predicted, labels=classes)
    return np.asarray(matrix, dtype=np.int64)


def mean_auc(predictions: Predictions) -> Value:
    """Mean ROC AUC over the classes that have positives and negatives; None if no class has both."""
    aucs = [sk.roc_auc_score(one.truth, one.score) for one in predictions.each_class() if one.has_both_sides]
    return float(np.mean(aucs)) if aucs else None


def accuracy(predictions: Predictions) -> Value:
    """Share of right predictions; multilabel: mean over classes of that share, or None if no label is known."""
    if predictions.task == "multiclass":
        return float(sk.accuracy_score(predictions.labels[:, 0], predictions.predicted))
    shares = [float((one.truth == one.predicted).mean()) for one in predictions.each_class() if len(one.truth)]
    return float(np.mean(shares)) if shares else None


def curves(predictions: Predictions) -> dict[str, tuple[Floats, Floats]]:
    """Class -> ROC curve (false-positive rate, true-positive rate), for classes with positives and negatives."""
    ones = [one for one in predictions.each_class() if one.has_both_sides]
    return {one.name: sk.roc_curve(one.truth, one.score)[:2] for one in ones}


def strict_json(values: Mapping[str, Any]) -> str:
    """JSON whose bytes depend on the values alone; raises ValueError for a NaN."""
    return json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _class_metrics(one: OneClass, path: str, n: int, undefined: dict[str, str]) -> dict[str, Any]:
    positive, negative = int(one.truth.sum()), int((~one.truth).sum())
    values: dict[str, Any] = {"positive": positive, "negative": negative, "unknown": n - positive - negative}
    # Counted here because scikit-learn refuses a class without a known label.
    values["confusion"] = np.bincount(2 * one.truth + one.predicted, minlength=4).reshape(2, 2).tolist()
    (_, fp), (fn, tp) = values["confusion"]
    sides = {"no positive sample": positive, "no negative sample": negative}

    def put(name: str, metric: Callable[..., float], answers: NDArray[Any], needs: dict[str, int]) -> None:
        lacking = [reason for reason, count in needs.items() if count == 0]
        if lacking:
            undefined[f"{path}/{name}"] = " and ".join(lacking)
        values[name] = None if lacking else float(metric(one.truth, answers))

    known = {"no known label": positive + negative}
    put("accuracy", sk.accuracy_score, one.predicted, known)
    put("balanced_accuracy", sk.balanced_accuracy_score, one.predicted, sides)
    put("precision", sk.precision_score, one.predicted, {"no positive answer": tp + fp})
    put("recall", sk.recall_score, one.predicted, {"no positive sample": positive})
    put("f1", sk.f1_score, one.predicted, {"neither a positive sample nor a positive answer": tp + fp + fn})
    specificity = partial(sk.recall_score, pos_label=0)
    put("specificity", specificity, one.predicted, {"no negative sample": negative})
    put("roc_auc", sk.roc_auc_score, one.score, sides)
    put("average_precision", sk.average_precision_score, one.score, sides)
    put("brier", sk.brier_score_loss, one.score, known)
    put("ece", lambda truth, score: reliability(score, truth).error, one.score, known)
    return values


def _micro(predictions: Predictions, undefined: dict[str, str]) -> dict[str, Value]:
    """The metrics of the known labels of all classes, pooled as one set of binary labels."""
    ones = predictions.each_class()
    fields = ("truth", "score", "predicted", "known")
    pooled = {name: np.concatenate([getattr(one, name) for one in ones]) for name in fields}
    values = _class_metrics(OneClass(name="micro", **pooled), "micro", len(pooled["truth"]), undefined)
    return {name: values[name] for name in MACRO}


def _probabilistic(predictions: Predictions, undefined: dict[str, str]) -> dict[str, Value]:
    values = scores(predictions.probabilities, predictions.labels, predictions.task)
    names = ("log_loss", "brier", "ece")
    return {name: _overall(name, (values[name], "no known label"), undefined) for name in names}


def _macro(name: str, per_class: Iterable[dict[str, Any]], undefined: dict[str, str]) -> Value:
    defined = [values[name] for values in per_class if values[name] is not None]
    mean = float(np.mean(defined)) if defined else None
    return _overall(f"macro/{name}", (mean, "defined for no class"), undefined)


def _overall(path: str, value_or_reason: tuple[Value, str], undefined: dict[str, str]) -> Value:
    value, reason = value_or_reason
    if value is None:
        undefined[path] = reason
    return value


def _balanced_accuracy(predictions: Predictions) -> tuple[Value, str]:
    if predictions.task == "multiclass":
        ones = [one for one in predictions.each_class() if one.truth.any()]
        recalls = [sk.recall_score(one.truth, one.predicted) for one in ones]
        return (float(np.mean(recalls)) if len(recalls) > 1 else None), "one class only in this split"
    ones = [one for one in predictions.each_class() if one.has_both_sides]
    balanced = [sk.balanced_accuracy_score(one.truth, one.predicted) for one in ones]
    return (float(np.mean(balanced)) if balanced else None), "no class has positive and negative samples"
