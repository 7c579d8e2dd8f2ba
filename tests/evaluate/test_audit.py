"""Falls after a swap are those of scikit-learn's metrics, with the answer known for a model that reads one input."""

import dataclasses

import numpy as np
import pytest
from made_runs import make_predictions, swapped_of
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from cxr_dist.evaluate.audit import audit, fall_of
from cxr_dist.evaluate.donors import KINDS


@pytest.mark.parametrize(("used", "unused"), [("report", "image"), ("image", "report")])
def test_a_model_that_reads_one_input_falls_under_its_swap_alone(used: str, unused: str) -> None:
    own = make_predictions(n=200, skill=3)
    block = audit(own, swapped_of(own, {used: 1.0, unused: 0.0}), n_bootstrap=200)
    assert fall_of(block, used).low > 0.3
    for metrics in (block[unused][kind]["metrics"] for kind in KINDS):
        assert {(row["fall"], row["low"], row["high"]) for row in metrics.values()} == {(0.0, 0.0, 0.0)}
    assert block["statement"].endswith(f"the model uses the {used}; no use of the {unused} is shown.")
    assert (block["report_minus_image"]["value"] > 0) == (used == "report")


def test_values_before_and_after_equal_scikit_learn() -> None:
    own = make_predictions(n=150)
    swapped = swapped_of(own, {"report": 0.7})
    block = audit(own, swapped, n_bootstrap=20)["report"]["other_labels"]
    assert (block["n"], block["without_donor"]) == (150, {"n": 0, "patients": 0})
    truth = own.labels[:, 0]
    after = swapped["report", "other_labels"].predictions.probabilities
    for scores, name in ((own.probabilities, "before"), (after, "after")):
        expected = {
            "macro_roc_auc": np.mean([roc_auc_score(truth == c, scores[:, c]) for c in range(5)]),
            "accuracy": accuracy_score(truth, scores.argmax(axis=1)),
            "log_loss": log_loss(truth, scores),
            "roc_auc/nodule": roc_auc_score(truth == 4, scores[:, 4]),
        }
        for metric, value in expected.items():
            assert block["metrics"][metric][name] == pytest.approx(value, abs=1e-12), metric
    row = block["metrics"]["macro_roc_auc"]
    assert row["fall"] == row["before"] - row["after"]
    assert row["low"] < row["fall"] < row["high"]


def test_labels_of_one_patient_are_left_out_before_and_after_the_swap_and_counted() -> None:
    made = make_predictions(task="multilabel", n=120, classes=("a", "b"), passes=0)
    labels = made.labels.copy()
    labels[labels < 0] = 0
    labels[:2] = -1  # both images of the first patient, and no others
    own = dataclasses.replace(made, labels=labels)
    kept = own.select(np.arange(2, 120))
    block = audit(own, swapped_of(own, {"image": 1.0}), n_bootstrap=20)
    assert block["image"]["same_label"]["without_donor"] == {"n": 2, "patients": 1}
    assert block["image"]["same_label"]["n"] == 118
    expected = np.mean([roc_auc_score(kept.labels[:, c], kept.probabilities[:, c]) for c in range(2)])
    assert block["image"]["same_label"]["metrics"]["macro_roc_auc"]["before"] == pytest.approx(expected)
    assert block["image"]["other_labels"]["without_donor"]["n"] == 0
    assert block["report"]["reason"] == "the model reads no report, so a swap of reports changes nothing"
    assert block["statement"].endswith("macro ROC AUC; the model reads no report.")


def test_a_split_without_any_possible_swap_says_so() -> None:
    own = make_predictions(n=6, classes=("a", "b"), passes=0)
    own = dataclasses.replace(own, labels=np.zeros((6, 1), np.int16))
    block = audit(own, swapped_of(own, {"image": 1.0, "report": 1.0}), n_bootstrap=5)
    assert block["image"]["other_labels"]["reason"] == "no two patients have such labels"
    assert block["report_minus_image"]["value"] is None
    assert block["statement"].endswith("no use of either is shown.")
