"""Predictions in, a JSON-able dictionary of metrics out; scikit-learn computes them.

A metric that the split cannot answer (an AUC with one class only, a precision without a positive answer) is
null, never 0 or 0.5, and `undefined` says why: {"per_class/NAME/roc_auc": "no positive sample"}. A macro
value is the mean over the classes where the metric is defined; a micro value pools all known labels.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics as sk

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
"""Metrics of one class against the rest, which have a mean over classes and a pooled value too."""
Value = float | None


def compute_metrics(predictions: Predictions) -> dict[str, Any]:
    """All metrics of one split, as plain numbers, in a fixed order.

    accuracy: share of right answers; multilabel: mean over classes of the share right among known labels.
    balanced_accuracy: mean recall over the classes that occur; multilabel: mean over classes of
    (recall + specificity) / 2. log_loss (nats), brier, ece: see `calibration`; multilabel: over all known
    labels. Per class, one against the rest: the counts, [[tn, fp], [fn, tp]], and the metrics of `MACRO`; there
    brier is the mean of (p - y)², 0 to 1.
    With stochastic passes: how the uncertainty of their mean (nats) goes with right and wrong answers.
    """
    undefined: dict[str, str] = {}
    per_class = {
        one.name: _class_metrics(one, f"per_class/{one.name}", len(predictions), undefined)
        for one in _each_class(predictions)
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
    """[C, C] counts of a multiclass split: rows are the true class, columns the predicted class."""
    classes = range(len(predictions.classes))
    matrix = sk.confusion_matrix(predictions.labels[:, 0], predictions.predicted, labels=list(classes))
    return np.asarray(matrix, dtype=np.int64)


def mean_auc(predictions: Predictions) -> Value:
    """ROC AUC, averaged over the classes that have positives and negatives; None where no class has."""
    aucs = [sk.roc_auc_score(one.truth, one.score) for one in _each_class(predictions) if _both(one.truth)]
    return float(np.mean(aucs)) if aucs else None


def accuracy(predictions: Predictions) -> Value:
    """Share of right answers; multilabel: mean over classes of the share right among known labels, or None."""
    if predictions.task == "multiclass":
        return float(sk.accuracy_score(predictions.labels[:, 0], predictions.predicted))
    shares = [
        float((one.truth == one.predicted).mean()) for one in _each_class(predictions) if len(one.truth)
    ]
    return float(np.mean(shares)) if shares else None


def curves(predictions: Predictions) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Class -> (false-positive rate, true-positive rate); a class without positives or negatives is left out."""
    return {
        one.name: sk.roc_curve(one.truth, one.score)[:2]
        for one in _each_class(predictions)
        if _both(one.truth)
    }


def to_json(values: Mapping[str, Any]) -> str:
    """The same values give the same bytes; a NaN is an error."""
    return json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _each_class(predictions: Predictions) -> Iterable[OneClass]:
    return (predictions.one_class(index) for index in range(len(predictions.classes)))


def _both(truth: NDArray[np.bool_]) -> bool:
    return bool(truth.any() and not truth.all())


def _class_metrics(one: OneClass, path: str, n: int, undefined: dict[str, str]) -> dict[str, Any]:
    positive, negative = int(one.truth.sum()), int((~one.truth).sum())
    values: dict[str, Any] = {"positive": positive, "negative": negative, "unknown": n - positive - negative}
    # Counted here because scikit-learn refuses a class without any known label.
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
    put("specificity", _specificity, one.predicted, {"no negative sample": negative})
    put("roc_auc", sk.roc_auc_score, one.score, sides)
    put("average_precision", sk.average_precision_score, one.score, sides)
    put("brier", sk.brier_score_loss, one.score, known)
    put("ece", _calibration_error, one.score, known)
    return values


def _specificity(truth: NDArray[np.bool_], predicted: NDArray[np.bool_]) -> float:
    return float(sk.recall_score(~truth, ~predicted))


def _calibration_error(truth: NDArray[np.bool_], score: NDArray[np.float64]) -> float:
    return reliability(score, truth).error


def _micro(predictions: Predictions, undefined: dict[str, str]) -> dict[str, Value]:
    """The metrics of all classes' known labels taken as one set of yes/no answers."""
    ones = list(_each_class(predictions))
    fields = ("truth", "score", "predicted", "known")
    pooled = {name: np.concatenate([getattr(one, name) for one in ones]) for name in fields}
    found = _class_metrics(OneClass(name="micro", **pooled), "micro", len(pooled["truth"]), undefined)
    return {name: found[name] for name in MACRO}


def _probabilistic(predictions: Predictions, undefined: dict[str, str]) -> dict[str, Value]:
    found = scores(predictions.probabilities, predictions.labels, predictions.task)
    return {name: _overall(name, (value, "no known label"), undefined) for name, value in found.items()}


def _macro(name: str, per_class: Iterable[dict[str, Any]], undefined: dict[str, str]) -> Value:
    defined = [values[name] for values in per_class if values[name] is not None]
    mean = float(np.mean(defined)) if defined else None
    return _overall(f"macro/{name}", (mean, "defined for no class"), undefined)


def _overall(path: str, found: tuple[Value, str], undefined: dict[str, str]) -> Value:
    value, reason = found
    if value is None:
        undefined[path] = reason
    return value


def _balanced_accuracy(predictions: Predictions) -> tuple[Value, str]:
    if predictions.task == "multiclass":
        recalls = [
            sk.recall_score(one.truth, one.predicted) for one in _each_class(predictions) if one.truth.any()
        ]
        return (float(np.mean(recalls)) if len(recalls) > 1 else None), "one class only in this split"
    balanced = [
        sk.balanced_accuracy_score(one.truth, one.predicted)
        for one in _each_class(predictions)
        if _both(one.truth)
    ]
    return (float(np.mean(balanced)) if balanced else None), "no class has positive and negative samples"
