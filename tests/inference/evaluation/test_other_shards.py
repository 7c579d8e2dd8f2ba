"""Evaluation on shards that the run was not trained on."""

import csv
import json
import shutil

import pytest

NAMES = ["Normal", "Cardiomegaly", "Effusion", "Opacity", "Nodule"]


def rows(folder):
    """Key -> row of a predictions.csv."""
    with (folder / "predictions.csv").open(newline="") as file:
        return {row["key"]: row for row in csv.DictReader(file)}


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


@pytest.fixture
def evaluate(cxr_dist):
    """`evaluate(run, *arguments)` must succeed and returns what was printed."""

    def run(*arguments):
        status, out, said = cxr_dist("evaluate", *arguments, "--mc-samples", 0)
        assert status == 0, said
        return " ".join(out.split())

    return run


@pytest.fixture
def refused(cxr_dist):
    """`refused(run, *arguments)` must fail and returns its one line."""

    def run(*arguments):
        status, _, said = cxr_dist("evaluate", *arguments, "--mc-samples", 0)
        assert status == 2
        assert said.startswith("cxr-dist: ")
        assert said.count("\n") == 1
        return said

    return run


def test_a_class_keeps_its_probabilities_where_shards_list_classes_in_another_order(evaluate, a_run, reversed_shards):
    run = a_run()
    evaluate(run)
    said = evaluate(run, "--shards", reversed_shards, "--name", "reversed")
    own, other = rows(run / "evaluation" / "test"), rows(run / "evaluation" / "reversed")
    common = own.keys() & other.keys()
    assert len(common) > 20
    assert {key: other[key] for key in common} == {key: own[key] for key in common}
    result = metrics(run / "evaluation" / "reversed")
    assert list(result["metrics"]["per_class"]) == NAMES
    assert result["external"]["name"] == "reversed"
    assert result["external"]["shards_manifest_sha256"] == result["manifest_sha256"]
    assert result["external"]["classes_not_evaluated"] == {}
    assert "samples of other shards (reversed)" in said
    assert "chosen on the run's own validation split" in said
    assert "results: " + str(run / "evaluation" / "reversed") in said


def test_calibration_and_thresholds_are_those_of_the_runs_own_validation(evaluate, a_run, other_shards):
    run, other = a_run(), other_shards("seed: 0", "seed: 5")
    evaluate(run, "--shards", other, "--name", "other")  # which evaluates the own validation split first
    evaluate(run)
    own, external = metrics(run / "evaluation" / "test"), metrics(run / "evaluation" / "other")
    assert external["calibration"]["chosen_on"] == own["calibration"]["chosen_on"]
    assert external["calibration"]["chosen_on"]["source"] == "own validation"
    for name in NAMES:
        points = [each["operating_points"]["per_class"][name] for each in (own, external)]
        assert points[0]["threshold"] == points[1]["threshold"]
        assert points[0]["applied"] != points[1]["applied"]
    assert own["external"] is None
    assert external["external"]["recalibrated"] is False
    assert sorted(path.name for path in (run / "evaluation").iterdir()) == ["other", "test", "val"]
    said = evaluate(run, "--shards", other, "--name", "again", "--recalibrate")
    again = metrics(run / "evaluation" / "again")
    assert again["calibration"]["chosen_on"]["source"] == "validation of the evaluated shards"
    assert again["calibration"]["chosen_on"] != own["calibration"]["chosen_on"]
    assert again["external"]["recalibrated"] is True
    assert "(--recalibrate)" in said
    assert metrics(run / "evaluation" / "val")["manifest_sha256"] == own["manifest_sha256"]


def test_without_own_validation_there_is_no_calibration_and_it_is_said(
    evaluate, a_run, tiny_shards, other_shards, tmp_path
):
    shards = shutil.copytree(tiny_shards, tmp_path / "shards")
    run = a_run(shards=shards)
    shutil.rmtree(shards)
    said = evaluate(run, "--shards", other_shards("seed: 0", "seed: 5"), "--name", "other")
    result = metrics(run / "evaluation" / "other")
    assert result["calibration"] is None
    assert result["operating_points"] is None
    assert result["patients_in_training"] is None
    for note in ("calibration and thresholds are not chosen", "not known whether patients were also in training"):
        assert any(note in each for each in result["external"]["notes"])
        assert note in said
    assert [path.name for path in (run / "evaluation").iterdir()] == ["other"]


def test_a_class_that_the_shards_lack_is_not_evaluated(evaluate, cxr_dist, a_run, other_shards, tmp_path):
    run = a_run()
    said = evaluate(run, "--shards", other_shards(", Nodule: nodule}", "}\n  drop: [nodule]"), "--name", "four")
    result = metrics(run / "evaluation" / "four")
    reason = "the shards lack it: it has no positive samples"
    assert result["external"]["classes_not_evaluated"] == {"Nodule": reason}
    assert f"Not evaluated: Nodule ({reason})" in said
    nodule = result["metrics"]["per_class"]["Nodule"]
    assert nodule["positive"] == nodule["negative"] == 0
    assert {nodule[name] for name in ("precision", "recall", "f1", "roc_auc", "brier")} == {None}
    assert result["population"]["prevalence"]["Nodule"] is None
    others = [result["metrics"]["per_class"][name]["f1"] for name in NAMES[:4]]
    assert result["metrics"]["macro"]["f1"] == pytest.approx(sum(others) / 4)
    status, _, error = cxr_dist("compare", run, "--split", "four", "--out", tmp_path / "page")
    assert status == 0, error
    assert (tmp_path / "page" / "report.html").is_file()


def test_a_class_map_joins_and_ignores_classes(evaluate, refused, a_run, other_shards, tmp_path):
    run, other = a_run(), other_shards("Effusion: effusion", "Fluid: effusion", "Nodule: nodule", "Mass: nodule")
    line = refused(run, "--shards", other, "--name", "renamed")
    assert "does not know: Fluid, Mass" in line
    assert ", ".join(NAMES) in line
    assert "Normal, Cardiomegaly, Fluid, Opacity, Mass" in line
    assert "--class-map FILE.yaml" in line
    (tmp_path / "map.yaml").write_text("Effusion: Fluid\nnot evaluated: [Mass]\n")
    said = evaluate(run, "--shards", other, "--name", "renamed", "--class-map", tmp_path / "map.yaml")
    result = metrics(run / "evaluation" / "renamed")
    evaluate(run)
    own = metrics(run / "evaluation" / "test")
    mass = own["metrics"]["per_class"]["Nodule"]["positive"]
    assert result["external"]["samples_left_out"] == {"Mass": mass}
    assert f"{mass} samples of the class Mass are left out" in said
    assert result["external"]["class_map"] == {"Effusion": ["Fluid"], "not evaluated": ["Mass"]}
    assert result["metrics"]["n"] == own["metrics"]["n"] - mass == len(rows(run / "evaluation" / "renamed"))
    assert result["metrics"]["per_class"]["Effusion"]["recall"] == own["metrics"]["per_class"]["Effusion"]["recall"]


def test_a_name_is_needed_and_holds_the_results_of_one_split_of_one_folder(refused, evaluate, a_run, other_shards):
    run, other, third = a_run(), other_shards("seed: 0", "seed: 5"), other_shards("seed: 0", "seed: 6")
    assert "Add --name NAME" in refused(run, "--shards", other)
    for name in ("test", "val", "train"):
        assert "choose another name" in refused(run, "--shards", other, "--name", name)
    for name in ("../out", "a/b", "", ".hidden"):
        assert "expected a file name" in refused(run, "--shards", other, "--name", name)
    assert not (run / "evaluation").exists()
    evaluate(run, "--shards", other, "--name", "x")
    before = (run / "evaluation" / "x" / "metrics.json").read_bytes()
    assert "already holds the results of other shards" in refused(run, "--shards", third, "--name", "x")
    assert "already holds the results of the split test" in refused(
        run, "--shards", other, "--name", "x", "--split", "train"
    )
    assert (run / "evaluation" / "x" / "metrics.json").read_bytes() == before
    evaluate(run, "--shards", other, "--name", "x")
    assert (run / "evaluation" / "x" / "metrics.json").read_bytes() == before


def test_own_shards_that_moved_are_the_runs_own(refused, evaluate, a_run, tiny_shards, tmp_path):
    run, moved = a_run(), shutil.copytree(tiny_shards, tmp_path / "moved")
    evaluate(run, "--shards", moved)
    assert metrics(run / "evaluation" / "test")["external"] is None
    assert "leave them out" in refused(run, "--shards", moved, "--name", "moved")


def test_shards_that_do_not_fit_are_refused(refused, a_run, other_shards, study_shards, a_table, tmp_path):
    run = a_run()
    small = other_shards("{short_side: 64", "{short_side: 32")
    assert "less than the 48 that the model reads" in refused(run, "--shards", small, "--name", "x")
    assert "trained on single images: shard" in refused(run, "--shards", study_shards, "--name", "x")
    multilabel = a_table("multilabel", "multilabel", "findings", ("Normal", "Nodule"))
    line = refused(run, "--shards", multilabel, "--name", "x")
    assert "the shards are multilabel, but the model was trained for a multiclass task" in line
    other = other_shards("seed: 0", "seed: 5")
    line = refused(run, "--shards", other, "--name", "x", "--recalibrate", "--split", "val")
    assert "--recalibrate chooses on the validation split" in line
    line = refused(run, "--shards", tmp_path, "--name", "x")
    assert "no manifest.json in" in line
    assert "set --shards" in line
    assert "--data.shards" not in line


def test_report_sections_belong_to_the_model(refused, evaluate, a_run, a_table):
    run = a_run("text")  # reads indication and findings
    line = refused(run, "--shards", a_table("notes", "multiclass", "notes"), "--name", "x")
    assert "the report sections indication, findings, of which the shards have none; they have: notes" in line
    said = evaluate(run, "--shards", a_table("findings", "multiclass", "findings"), "--name", "x")
    note = "the shards lack the report section indication, which the model reads"
    result = metrics(run / "evaluation" / "x")
    assert note in result["external"]["notes"]
    assert note in said
    assert result["text_sections"] == ["indication", "findings"]
    assert result["label_source"] == "table"
    assert result["made_data"] is True  # the model was trained on synthetic data


def test_other_storage_is_noted(evaluate, a_run, other_shards):
    run = a_run()
    evaluate(run, "--shards", other_shards("{short_side: 64", "{short_side: 56"), "--name", "x")
    notes = metrics(run / "evaluation" / "x")["external"]["notes"]
    assert "the images are stored with a short side of 56 pixels, in training 64" in notes


def test_patients_in_training_are_counted_for_one_reader_only(evaluate, a_run, other_shards, a_table):
    run = a_run()
    evaluate(run, "--shards", other_shards("seed: 1}", "seed: 2}"), "--name", "same")  # another split of the same data
    evaluate(run, "--shards", a_table("table", "multiclass", "findings"), "--name", "other")
    same, other = (metrics(run / "evaluation" / name) for name in ("same", "other"))
    assert same["patients_in_training"] > 0
    assert any("have the id of a patient in training" in note for note in same["external"]["notes"])
    assert other["patients_in_training"] is None
    assert any("patient ids of different readers cannot be compared" in note for note in other["external"]["notes"])


def test_multilabel_classes_are_matched_too(evaluate, a_run, a_table):
    """Takes a few seconds, because three evaluations are resampled for their intervals."""
    run = a_run(shards=a_table("trained", "multilabel", "findings", ("Edema", "Nodule", "Fracture")))
    other = a_table("other", "multilabel", "findings", ("Nodule", "Edema"))
    evaluate(run, "--shards", other, "--name", "x")
    result, cells = metrics(run / "evaluation" / "x"), rows(run / "evaluation" / "x")
    reason = "the shards lack it: its labels are unknown"
    assert result["external"]["classes_not_evaluated"] == {"Fracture": reason}
    assert {row["label:Fracture"] for row in cells.values()} == {""}
    assert {row["label:Nodule"] for row in cells.values()} == {"0", "1", ""}
    fracture = result["metrics"]["per_class"]["Fracture"]
    assert fracture["unknown"] == result["metrics"]["n"] == len(cells)
    assert fracture["roc_auc"] is None
    assert [name for name, one in result["metrics"]["per_class"].items() if one["roc_auc"] is not None] == [
        "Edema",
        "Nodule",
    ]


def test_an_ensemble_is_evaluated_on_other_shards(evaluate, a_run, other_shards, tmp_path):
    runs = [a_run(name=name, seed=seed) for name, seed in (("a", 0), ("b", 1))]
    out = tmp_path / "mean"
    evaluate(
        runs[0], "--ensemble", runs[1], "--out", out, "--shards", other_shards("seed: 0", "seed: 5"), "--name", "x"
    )
    assert sorted(path.name for path in (out / "evaluation").iterdir()) == ["val", "x"]
    result = metrics(out / "evaluation" / "x")
    assert len(result["members"]) == 2
    assert result["calibration"]["chosen_on"]["source"] == "own validation"
    assert not (runs[0] / "evaluation").exists()


def test_the_population_is_described(evaluate, a_run):
    run = a_run()
    evaluate(run)
    described = metrics(run / "evaluation" / "test")["population"]
    assert described["n"] == len(rows(run / "evaluation" / "test"))
    for name in ("age_band", "sex", "view"):
        assert sum(described[name].values()) == pytest.approx(1)
    assert list(described["prevalence"]) == NAMES
    assert sum(described["prevalence"].values()) == pytest.approx(1)
