"""Every metric equals scikit-learn's, or is null with a reason if it is undefined."""

import dataclasses
import json
import warnings

import numpy as np
import pytest
from made_runs import CLASSES, make_predictions
from scipy import stats
from sklearn import metrics as sk

from cxr_dist.evaluate.metrics import MACRO, compute_metrics, confusion_matrix, curves, mean_auc, strict_json
from cxr_dist.evaluate.predictions import Predictions
from cxr_dist.evaluate.risk_coverage import mc_answers


@pytest.fixture(autouse=True)
def _no_warnings():  # type: ignore[no-untyped-def]
    """scikit-learn warns if it substitutes a value for an undefined metric; none of ours may be such a value."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_multiclass_metrics_equal_scikit_learn() -> None:
    predictions = make_predictions()
    values, truth, predicted = compute_metrics(predictions), predictions.labels[:, 0], predictions.predicted
    assert values["accuracy"] == sk.accuracy_score(truth, predicted)
    assert values["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(truth, predicted), abs=1e-12)
    assert values["log_loss"] == pytest.approx(sk.log_loss(truth, predictions.probabilities), abs=1e-12)
    assert values["confusion_matrix"] == sk.confusion_matrix(truth, predicted).tolist()
    macro = {
        "precision": sk.precision_score(truth, predicted, average="macro"),
        "recall": sk.recall_score(truth, predicted, average="macro"),
        "f1": sk.f1_score(truth, predicted, average="macro"),
        "roc_auc": sk.roc_auc_score(truth, predictions.probabilities, multi_class="ovr"),
        "average_precision": sk.average_precision_score(np.eye(5)[truth], predictions.probabilities),
    }
    for name, value in macro.items():
        assert values["macro"][name] == pytest.approx(value, abs=1e-12), name
    assert mean_auc(predictions) == pytest.approx(macro["roc_auc"], abs=1e-12)
    assert values["undefined"] == {}


def test_per_class_metrics_equal_scikit_learn_on_the_known_labels() -> None:
    predictions = make_predictions(task="multilabel")
    values = compute_metrics(predictions)
    for c, name in enumerate(CLASSES):
        known = predictions.labels[:, c] >= 0
        truth, score = predictions.labels[known, c], predictions.probabilities[known, c]
        predicted, one = (score >= 0.5).astype(int), values["per_class"][name]
        assert one["unknown"] == (~known).sum()
        assert one["confusion"] == sk.confusion_matrix(truth, predicted).tolist()
        assert one["accuracy"] == sk.accuracy_score(truth, predicted)
        assert one["balanced_accuracy"] == sk.balanced_accuracy_score(truth, predicted)
        assert one["precision"] == sk.precision_score(truth, predicted)
        assert one["recall"] == sk.recall_score(truth, predicted)
        assert one["specificity"] == sk.recall_score(truth, predicted, pos_label=0)
        assert one["f1"] == sk.f1_score(truth, predicted)
        assert one["roc_auc"] == sk.roc_auc_score(truth, score)
        assert one["average_precision"] == sk.average_precision_score(truth, score)
    assert values["accuracy"] == pytest.approx(np.mean([v["accuracy"] for v in values["per_class"].values()]))
    balanced = [(v["recall"] + v["specificity"]) / 2 for v in values["per_class"].values()]
    assert values["balanced_accuracy"] == pytest.approx(np.mean(balanced))


def test_multilabel_log_loss_equals_torch_on_the_known_labels() -> None:
    import torch

    predictions = make_predictions(task="multilabel")
    known = predictions.labels >= 0
    expected = torch.nn.functional.binary_cross_entropy(
        torch.tensor(predictions.probabilities[known]),
        torch.tensor(predictions.labels[known], dtype=torch.float64),
    )
    assert compute_metrics(predictions)["log_loss"] == pytest.approx(float(expected), abs=1e-12)


def test_a_split_with_a_single_class_has_nulls_with_reasons() -> None:
    predictions = make_predictions(passes=0)
    predictions.labels[:] = 2
    values = compute_metrics(predictions)
    assert values["accuracy"] == (predictions.predicted == 2).mean()
    assert values["balanced_accuracy"] is None
    assert values["undefined"]["balanced_accuracy"] == "one class only in this split"
    assert values["undefined"]["per_class/effusion/roc_auc"] == "no negative sample"
    assert values["undefined"]["per_class/normal/recall"] == "no positive sample"
    assert values["undefined"]["macro/roc_auc"] == "defined for no class"
    assert mean_auc(predictions) is None
    assert curves(predictions) == {}


def test_a_class_without_known_labels_is_excluded_from_the_means() -> None:
    predictions = make_predictions(task="multilabel", passes=0)
    predictions.labels[:, 1] = -1
    values = compute_metrics(predictions)
    assert {values["per_class"]["cardiomegaly"][name] for name in MACRO} == {None}
    assert values["per_class"]["cardiomegaly"]["unknown"] == 150
    assert values["undefined"]["per_class/cardiomegaly/accuracy"] == "no known label"
    others = [values["per_class"][name]["roc_auc"] for name in CLASSES if name != "cardiomegaly"]
    assert values["macro"]["roc_auc"] == mean_auc(predictions) == pytest.approx(np.mean(others))


def test_without_known_labels_metrics_are_null() -> None:
    predictions = make_predictions(task="multilabel", n=4)
    predictions.labels[:] = -1
    values = compute_metrics(predictions)
    assert values["accuracy"] is values["log_loss"] is values["macro"]["f1"] is None
    assert values["uncertainty"]["answers"] == 0
    json.loads(strict_json(values))


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_a_single_sample_has_an_accuracy_and_no_auc(task: str) -> None:
    values = compute_metrics(make_predictions(task=task, n=1))
    assert values["n"] == 1
    assert values["accuracy"] is not None
    assert values["macro"]["roc_auc"] is None
    strict_json(values)


def test_a_class_that_is_never_predicted_has_no_precision_but_an_f1_of_zero() -> None:
    predictions = make_predictions(passes=0)
    predictions.probabilities[:, 4] = 0
    values = compute_metrics(predictions)
    assert values["per_class"]["nodule"]["precision"] is None
    assert values["per_class"]["nodule"]["f1"] == 0
    assert values["macro"]["f1"] == pytest.approx(
        sk.f1_score(predictions.labels[:, 0], predictions.predicted, average="macro"), abs=1e-12
    )


def test_rounding_to_float32_hardly_changes_the_log_loss() -> None:
    predictions = make_predictions(passes=0)
    rounded = predictions.probabilities.astype(np.float32).astype(np.float64)
    again = dataclasses.replace(predictions, probabilities=rounded)
    assert compute_metrics(again)["log_loss"] == pytest.approx(compute_metrics(predictions)["log_loss"], abs=1e-6)


def test_uncertainty_refers_to_the_prediction_of_the_mean() -> None:
    predictions = make_predictions()
    assert predictions.mc is not None
    right = predictions.mc.mean.argmax(1) == predictions.labels[:, 0]
    block = compute_metrics(predictions)["uncertainty"]
    assert block["accuracy"] == right.mean()
    assert block["predictive_entropy"]["wrong"] == pytest.approx(predictions.mc.predictive_entropy[~right].mean())
    order = np.argsort(-predictions.mc.predictive_entropy, kind="stable")
    assert block["most_uncertain_quarter"]["share_misclassified"] == (~right)[order[:38]].mean()
    assert block["rest"]["share_correct"] == right[order[38:]].mean()


def test_multilabel_uncertainty_is_computed_for_each_known_label() -> None:
    predictions = make_predictions(task="multilabel", n=3, classes=("a", "b"))
    assert predictions.mc is not None
    predictions.labels[:] = [[1, -1], [0, 1], [-1, -1]]
    predictions.mc.mean[:] = [[0.9, 0.1], [0.8, 0.5], [0.5, 0.5]]
    entropy, right = mc_answers(predictions)
    assert right.tolist() == [True, False, True]
    assert entropy == pytest.approx([stats.bernoulli(p).entropy() for p in (0.9, 0.8, 0.5)])


def test_confusion_matrix_rows_are_the_truth() -> None:
    predictions = make_predictions(passes=0)
    assert (
        confusion_matrix(predictions).sum(axis=1).tolist()
        == np.bincount(predictions.labels[:, 0], minlength=5).tolist()
    )


def test_curves_enclose_the_auc() -> None:
    predictions = make_predictions(passes=0)
    for name, (fpr, tpr) in curves(predictions).items():
        assert np.trapezoid(tpr, fpr) == pytest.approx(compute_metrics(predictions)["per_class"][name]["roc_auc"])


def test_the_same_predictions_give_the_same_bytes() -> None:
    predictions: Predictions = make_predictions()
    assert strict_json(compute_metrics(predictions)) == strict_json(compute_metrics(make_predictions()))
    with pytest.raises(ValueError, match="not JSON compliant"):
        strict_json({"value": float("nan")})
