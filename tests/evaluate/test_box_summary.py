"""Scores of findings become shares with intervals over patients, and a statement in words."""

import numpy as np
import pytest
from made_boxes import made_scores

from cxr_dist.errors import UserError
from cxr_dist.evaluate import wilson
from cxr_dist.evaluate.box_summary import explanations
from cxr_dist.evaluate.explain_boxes import COLUMNS

CLASSES = ("Mass", "Cyst", "Nodule")


def column(table: np.ndarray, name: str) -> np.ndarray:
    return table[:, COLUMNS.index(name)]


def test_values_are_means_and_intervals_are_over_patients():
    table, patients = made_scores()
    block = explanations(table, patients, CLASSES, 64)
    assert block["classes_without_boxes"] == ["Nodule"]
    for name, rows in (("all", table), ("Mass", table[column(table, "class") == 0])):
        scores = block["all"] if name == "all" else block["per_class"][name]
        of_rows = patients[rows[:, 0].astype(int)]
        assert (scores["findings"], scores["patients"]) == (len(rows), len(np.unique(of_rows)))
        for each in ("grad_cam", "centred_gaussian", "random"):
            measured = scores["maps"][each]
            assert measured["hit_rate"]["value"] == pytest.approx(column(rows, f"{each}:hit").mean())
            assert measured["energy_inside"]["value"] == pytest.approx(column(rows, f"{each}:inside").mean())
        hits = [column(rows, "grad_cam:hit")[of_rows == one].sum() for one in np.unique(of_rows)]
        counts = [(of_rows == one).sum() for one in np.unique(of_rows)]
        expected = wilson.share(np.array(hits, np.float64), np.array(counts, np.float64))
        found = scores["maps"]["grad_cam"]["hit_rate"]
        assert (found["low"], found["high"]) == (expected.low, expected.high)
        difference = scores["difference_to_centred_gaussian"]["grad_cam"]["energy_inside"]
        assert difference["value"] == pytest.approx(
            (column(rows, "grad_cam:inside") - column(rows, "centred_gaussian:inside")).mean()
        )
        assert difference["low"] < difference["value"] < difference["high"]


def test_the_statement_says_whether_the_map_differs_from_the_gaussian():
    for hit, inside, words in (
        (0.9, 0.5, ("more", "more")),
        (0.0, 0.1, ("less", "not shown")),
        (0.3, 0.0, ("not", "less")),
    ):
        table, patients = made_scores(hit=hit, inside=max(inside, 0.05) + 0.05)
        said = explanations(table, patients, CLASSES, 64)["statement"]
        first, second = said.split("Grad-CAM points into a box for ")[1].split(" and has ")
        for part, word in zip((first, second), words, strict=True):
            assert f"{word} than the Gaussian" in part or (word.startswith("not") and "not shown to differ" in part)
    assert said.startswith("A centred Gaussian, which knows nothing of the image, points into a box for ")
    assert "attention" not in said


def test_findings_outside_the_crop_are_counted_and_not_scored():
    table, patients = made_scores()
    before = explanations(table, patients, CLASSES, 64)
    hidden = table[:1].copy()
    hidden[0, COLUMNS.index("area")], hidden[0, COLUMNS.index("outside")] = 0, 1
    after = explanations(np.concatenate([hidden, table]), patients, CLASSES, 64)
    assert after.pop("boxes_outside_crop") == 1
    assert before.pop("boxes_outside_crop") == 0
    assert after == before
    with pytest.raises(UserError, match="no sample of the split has a box of a class of the model inside the centre"):
        explanations(hidden, patients, CLASSES, 64)


def test_a_model_without_grad_cam_is_refused():
    table, patients = made_scores()
    for score in ("hit", "inside", "empty"):
        table[:, COLUMNS.index(f"grad_cam:{score}")] = np.nan
    with pytest.raises(UserError, match="--boxes needs Grad-CAM, which this model does not have"):
        explanations(table, patients, CLASSES, 64)


def test_one_patient_has_wide_intervals_and_no_difference():
    table, patients = made_scores(2)
    block = explanations(table, patients, CLASSES, 64)["all"]
    assert block["patients"] == 1
    hits = block["maps"]["grad_cam"]["hit_rate"]
    assert hits["high"] - hits["low"] > 0.7
    assert block["difference_to_centred_gaussian"]["grad_cam"]["hit_rate"]["low"] is None
