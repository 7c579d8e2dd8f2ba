"""Metrics from arrays and DataFrames equal scikit-learn's, in whatever form the labels come, and mistakes are named."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

import cxr_dist
from cxr_dist.errors import UserError
from cxr_dist.evaluate.compare import HEADLINE

RANDOM = np.random.default_rng(0)
N, CLASSES = 120, ("A", "B", "C")
LABELS = RANDOM.integers(0, 3, N)
PROBABILITIES = RANDOM.dirichlet([1, 1, 1], N) * 0.5 + 0.5 * np.eye(3)[LABELS] * RANDOM.random((N, 1))
PROBABILITIES /= PROBABILITIES.sum(axis=1, keepdims=True)
PATIENTS = [f"patient {i // 2}" for i in range(N)]


def measured(labels=LABELS, probabilities=PROBABILITIES, patients=PATIENTS, **settings):
    return cxr_dist.metrics(labels, probabilities, patients, **({"n_bootstrap": 200} | settings))


def test_one_class_of_binary_labels_is_what_scikit_learn_computes():
    truth, score = LABELS == 1, PROBABILITIES[:, 1]
    values = measured(truth.astype(int), score).values["per_class"]["positive"]
    assert values["roc_auc"] == pytest.approx(roc_auc_score(truth, score))
    assert values["average_precision"] == pytest.approx(average_precision_score(truth, score))
    assert values["brier"] == pytest.approx(brier_score_loss(truth, score))


@pytest.mark.parametrize(
    ("labels", "probabilities"),
    [
        (LABELS.tolist(), PROBABILITIES.tolist()),
        (np.array(CLASSES)[LABELS], pd.DataFrame(PROBABILITIES, columns=CLASSES)),
        (pd.Series(np.array(CLASSES)[LABELS], index=range(5, N + 5)), pd.DataFrame(PROBABILITIES, columns=CLASSES)),
        (pd.Series(np.array(CLASSES)[LABELS], dtype="category"), pd.DataFrame(PROBABILITIES, columns=CLASSES)),
    ],
    ids=["lists", "names", "series", "category"],
)
def test_the_form_of_the_labels_does_not_matter(labels, probabilities):
    assert measured(labels, probabilities, classes=CLASSES).values == measured(classes=CLASSES).values
    expected = np.mean([roc_auc_score(c == LABELS, PROBABILITIES[:, c]) for c in range(3)])
    assert measured(labels, probabilities, classes=CLASSES).values["macro"]["roc_auc"] == pytest.approx(expected)


def test_unknown_labels_of_a_multilabel_task_are_left_out_in_any_notation():
    labels = np.where(RANDOM.random((N, 3)) < 0.2, np.nan, np.eye(3)[LABELS])
    frame = pd.DataFrame(labels, columns=CLASSES).astype("Int8")
    known = ~np.isnan(labels[:, 0])
    expected = roc_auc_score(labels[known, 0], PROBABILITIES[known, 0])
    for given in (labels, np.nan_to_num(labels, nan=-1).astype(int), frame, frame[["C", "A", "B"]]):
        values = measured(given, pd.DataFrame(PROBABILITIES, columns=CLASSES)).values
        assert values["per_class"]["A"]["roc_auc"] == pytest.approx(expected)


def test_intervals_hold_the_value_and_a_table_shows_both():
    table = measured(classes=CLASSES).frame().set_index(["metric", "class"])
    row = table.loc[("roc_auc", "B")]
    assert row["low"] < row["value"] < row["high"]
    assert set(HEADLINE) <= {metric for metric, of_class in table.index if not of_class}
    assert "macro_roc_auc" in repr(measured(classes=CLASSES))


def test_fewer_patients_than_samples_make_intervals_wider():
    doubled = np.concatenate([LABELS, LABELS]), np.concatenate([PROBABILITIES, PROBABILITIES])
    ids = [*range(N), *range(N)]

    def width(patients):
        found = measured(*doubled, patients).intervals["macro"]["roc_auc"]
        return found["high"] - found["low"]

    assert width(ids) > 1.2 * width(None)


def test_a_difference_is_paired_and_antisymmetric():
    worse = 0.5 * PROBABILITIES + 0.5 * RANDOM.dirichlet([1, 1, 1], N)
    first, second = measured(classes=CLASSES), measured(probabilities=worse, classes=CLASSES)
    there, back = first.difference(second), second.difference(first)
    assert there["value"].to_numpy() == pytest.approx(-back["value"].to_numpy())
    assert there["low"].to_numpy() == pytest.approx(-back["high"].to_numpy())
    auc = first.values["macro"]["roc_auc"] - second.values["macro"]["roc_auc"]
    assert there.loc["macro_roc_auc", "value"] == pytest.approx(auc)
    same = first.difference(measured(classes=CLASSES))
    assert (same["value"] == 0).all()
    with pytest.raises(UserError, match="differ in their classes, labels or patients"):
        first.difference(measured(patients=None, classes=CLASSES))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"probabilities": PROBABILITIES * 5 - 2}, "probabilities are from .*; expected 0 to 1, and not logits"),
        ({"probabilities": PROBABILITIES / 2}, "add up to 1 ± 0.5; expected 1"),
        ({"probabilities": PROBABILITIES[:7]}, "there are 120 labels for 7 rows of probabilities"),
        ({"classes": ("A", "B")}, r"the shape \[120, 3\] for 2 classes"),
        ({"patients": PATIENTS[:3]}, "there are 3 patients for 120 samples"),
        ({"labels": LABELS + 1}, "not the number of a class, 0 to 2"),
        ({"labels": ["D"] * N}, "a label is none of the classes"),
        ({"labels": np.full((N, 3), 2)}, "neither 1 .present., 0 .absent. nor -1"),
        ({"labels": [], "probabilities": np.zeros((0, 3)), "patients": None}, "no predictions"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        measured(**arguments)
