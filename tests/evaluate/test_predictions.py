"""predictions.csv reads back exactly, and damaged or missing files are refused."""

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import make_predictions

from cxr_dist.errors import UserError
from cxr_dist.evaluate.calibration import Calibrator
from cxr_dist.evaluate.predictions import Predictions


def assert_same(a: Predictions, b: Predictions) -> None:
    assert (a.task, a.classes, a.keys, a.patients) == (b.task, b.classes, b.keys, b.patients)
    assert np.array_equal(a.labels, b.labels)
    assert a.labels.dtype == b.labels.dtype
    assert np.array_equal(a.probabilities, b.probabilities)
    assert np.array_equal(a.raw, b.raw)
    assert (a.uncalibrated is None) == (b.uncalibrated is None)
    assert a.attributes == b.attributes
    assert (a.mc is None) == (b.mc is None)
    if a.mc is not None and b.mc is not None:
        assert a.mc.passes == b.mc.passes
        for name in ("mean", "variance", "predictive_entropy", "expected_entropy"):
            assert np.array_equal(getattr(a.mc, name), getattr(b.mc, name)), name


@given(
    task=st.sampled_from(["multiclass", "multilabel"]),
    n=st.integers(1, 20),
    passes=st.sampled_from([0, 3]),
    seed=st.integers(0, 1000),
    shift=st.sampled_from([0.0, 2.0]),
)
def test_round_trip_is_exact(
    tmp_path_factory: pytest.TempPathFactory, task: str, n: int, passes: int, seed: int, shift: float
) -> None:
    path = tmp_path_factory.mktemp("csv") / "predictions.csv"
    classes = ("COVID-19, ARDS", 'other "finding"', "žádný")
    calibrator = Calibrator(prior_shift=(0.0, shift, 0.0), bias=(0.0,) * 3)
    predictions = make_predictions(task=task, n=n, passes=passes, seed=seed, classes=classes).calibrated(calibrator)
    assert (predictions.uncalibrated is None) == (shift == 0)
    predictions.write_csv(path)
    first = path.read_bytes()
    assert_same(predictions, Predictions.read_csv(path))
    Predictions.read_csv(path).write_csv(path)
    assert path.read_bytes() == first


def test_formulas_are_escaped_in_the_table_and_read_back_exactly(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    views = ["=1+1", "@x", "-2", "'=y", "\rz", "a\nb", "", "PA"]
    made = make_predictions(n=8, passes=0, classes=("=cmd|' /c calc'!A0", "+a", "-1", "'tis"))
    predictions = dataclasses.replace(made, attributes={"view": views})
    predictions.write_csv(path)
    assert_same(predictions, Predictions.read_csv(path))
    with path.open(newline="", encoding="utf-8") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert not [cell for cell in cells if cell.startswith(tuple("=+@\t\r\n"))]


def test_a_table_from_before_formulas_were_escaped_reads_as_it_did(tmp_path: Path) -> None:
    path = tmp_path / "predictions.csv"
    predictions = make_predictions(n=8, passes=0, classes=("=a", "-b", "c"))
    predictions.write_csv(path)
    path.write_text(path.read_text().replace("'=a", "=a").replace("'-b", "-b"))
    assert_same(predictions, Predictions.read_csv(path))


def test_columns_have_readable_names(tmp_path: Path) -> None:
    make_predictions(n=2).write_csv(tmp_path / "predictions.csv")
    header = (tmp_path / "predictions.csv").read_text().splitlines()[0].split(",")
    assert header[:5] == ["key", "patient", "attribute:view", "label", "predicted"]
    assert header[-4:] == ["predictive_entropy", "expected_entropy", "mutual_information", "mc_passes"]


def test_the_table_keeps_raw_probabilities_beside_calibrated_ones_which_decide(tmp_path: Path) -> None:
    made = make_predictions(task="multilabel", n=20, passes=0, classes=("a", "b"))
    calibrator = Calibrator(prior_shift=(1.0, -1.0), temperature=2.0, bias=(0.0, 0.0))
    made.calibrated(calibrator).write_csv(tmp_path / "p.csv")
    header, *rows = [line.split(",") for line in (tmp_path / "p.csv").read_text().splitlines()]
    table = {name: [row[i] for row in rows] for i, name in enumerate(header)}
    assert list(map(float, table["probability:a"])) == made.probabilities[:, 0].tolist()
    calibrated = calibrator.apply(made.probabilities, "multilabel")
    assert list(map(float, table["calibrated:b"])) == calibrated[:, 1].tolist()
    assert list(map(int, table["predicted:a"])) == (calibrated[:, 0] >= 0.5).tolist()
    selected = made.calibrated(calibrator).select(np.array([3, 3, 0]))
    assert np.array_equal(selected.raw, made.probabilities[[3, 3, 0]])
    assert np.array_equal(selected.calibrated(None).probabilities, selected.raw)


def test_unknown_labels_are_empty_cells(tmp_path: Path) -> None:
    predictions = make_predictions(task="multilabel", n=1, passes=0, classes=("a", "b"))
    predictions.labels[:] = [[-1, 1]]
    predictions.write_csv(tmp_path / "p.csv")
    header, row = [line.split(",") for line in (tmp_path / "p.csv").read_text().splitlines()]
    assert (row[header.index("label:a")], row[header.index("label:b")]) == ("", "1")


def test_missing_file_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no predictions\.csv in .*: run `cxr-dist evaluate`"):
        Predictions.read_csv(tmp_path / "predictions.csv")


@pytest.mark.parametrize("damage", [lambda text: text[:-40], lambda text: "a,b\n1,2\n", lambda text: ""])
def test_damaged_file_is_refused(tmp_path: Path, damage) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "predictions.csv"
    make_predictions(n=4).write_csv(path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(UserError, match=r"not a complete predictions table|split is empty"):
        Predictions.read_csv(path)


def test_a_nan_probability_is_refused_as_a_diverged_model() -> None:
    predictions = make_predictions(n=3, passes=0)
    broken = predictions.probabilities.copy()
    broken[1] = np.nan
    with pytest.raises(UserError, match=r"1 of 3 samples .* not a number: the model diverged"):
        Predictions(
            task=predictions.task,
            classes=predictions.classes,
            keys=predictions.keys,
            patients=predictions.patients,
            labels=predictions.labels,
            probabilities=broken,
        )


def test_equal_probabilities_choose_the_first_class() -> None:
    predictions = make_predictions(n=1, passes=0, classes=("a", "b"))
    predictions.probabilities[:] = 0.5
    assert predictions.predicted.tolist() == [0]
