"""JSON, picture, table, Python and an export give one headline number, which is that of the evaluation."""

import csv
import json
from itertools import compress
from pathlib import Path

import pytest

import cxr_dist as package
from cxr_dist.evaluate.predictions import Predictions
from cxr_dist.evaluate.set_rule import in_set, outcomes_of, recorded_thresholds
from cxr_dist.inference.case import Predictor
from cxr_dist.inference.evaluation import evaluate_runs
from cxr_dist.inference.export import export
from cxr_dist.inference.given_case import Case
from cxr_dist.model.monte_carlo import McDropout

CLOSE = {"abs": 2e-6}
"""`predict` rounds to six digits, and a single case sums in another order than a batch."""


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_all_outputs_of_a_stored_sample_agree_with_its_evaluation(a_run, cases_of, cxr_dist, tmp_path, task):
    """Takes about 10 s, most of which are the resamples of the evaluation and the pictures."""
    run = a_run(tmp_path / "run", "fused", task)
    evaluate_runs([run], run, "test", McDropout(passes=3))
    metrics = json.loads((run / "evaluation" / "test" / "metrics.json").read_text())
    written = Predictions.read_csv(run / "evaluation" / "test" / "predictions.csv")
    assert metrics["calibration"]["method"] != "none"
    cases = [(image, note, key) for key, (image, note) in cases_of(task).items() if key in written.keys][:4]
    with (tmp_path / "cases.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image", "notes"], *((image, note) for image, note, _ in cases)])
    given = ("--input", tmp_path / "cases.csv", "--batch", "3", "--mc-samples", "5", "--out", tmp_path / "out")
    assert cxr_dist("predict", run, *given)[0] == 0
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    export(run, tmp_path / "model", with_onnx=False)
    exported, model = package.load(tmp_path / "model"), package.load(run)
    for (image, note, key), row in zip(cases, rows, strict=True):
        answer = model.predict(image, note, mc_samples=5)
        assert exported.predict(image, note, mc_samples=5) == answer
        headline = answer["headline"]
        assert headline["kind"] == "calibrated probability"
        expected = written.probabilities[written.keys.index(key)]
        assert list(headline["values"].values()) == pytest.approx(expected.tolist(), **CLOSE)
        assert headline["predicted"] == decided(headline["values"], metrics, task)
        held = in_set(written.raw[[written.keys.index(key)]], task, recorded_thresholds(metrics["conformal"]))[0]
        names = compress(outcomes_of(written.classes, task), held)
        assert outcomes_in(headline["prediction_set"]["holds"]) == list(names)
        assert in_json(cxr_dist, run, image, note, tmp_path / "one.png") == answer
        by_class = {name: float(row[f"headline:{name}"]) for name in written.classes}
        assert list(by_class.values()) == pytest.approx(list(headline["values"].values()), **CLOSE)
        if task == "multiclass":
            assert [row["predicted"]] == headline["predicted"]
        else:
            assert [name for name in written.classes if row[f"predicted:{name}"] == "1"] == headline["predicted"]
        shown = drawn(run, Case.of([Path(image)], note))
        assert list(shown.probabilities) == pytest.approx(list(headline["values"].values()), **CLOSE)
        assert (shown.kind, list(shown.predicted), shown.rule) == tuple(
            headline[n] for n in ("kind", "predicted", "rule")
        )
        assert list(shown.interval[0]) == pytest.approx(list(answer["mc_low"].values()), **CLOSE)


def outcomes_in(holds):
    """The outcomes in a prediction set, as `outcomes_of` names them."""
    if isinstance(holds, list):
        return holds
    return [f"{name}/{outcome}" for name, outcomes in holds.items() for outcome in outcomes]


def decided(values, metrics, task):
    """The classes that the recorded thresholds, or for multiclass the largest value, predict."""
    if task == "multiclass":
        return [max(values, key=values.get)]
    points = metrics["operating_points"]["per_class"]
    chosen = {name: points[name]["threshold"] for name in values}
    assert all(threshold is not None for threshold in chosen.values())
    return [name for name in values if values[name] >= chosen[name]]


def in_json(cxr_dist, run, image, note, picture):
    """What the command writes to JSON, without the fields that Python does not give."""
    given = ("--image", image, "--report", note, "--mc-samples", "5", "--out", picture)
    assert cxr_dist("predict", run, *given)[0] == 0
    answer = json.loads(picture.with_suffix(".json").read_text())
    answer["report"] = {name: answer["report"][name] for name in REPORT}
    return {name: value for name, value in answer.items() if name not in OF_THE_COMMAND}


REPORT = ("sections_read", "sections_left_out", "words_left_out", "terms_masked", "unknown_token_share")
OF_THE_COMMAND = (
    "note", "run", "mode", "checkpoint_step", "calibration", "temperature", "mc_scope", "explained_class", "heat_map",
)  # fmt: skip


def drawn(run, case):
    """What the picture of the case shows."""
    predictor = Predictor.open(run, McDropout(passes=5))
    batch = predictor.trained.batch([case])
    return predictor.explain(case, batch, predictor.answer(batch))[1]
