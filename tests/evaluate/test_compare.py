"""Run folders become one table, or a message that says why they cannot."""

import json
from pathlib import Path

import numpy as np
import pytest
from made_runs import make_predictions, make_run, make_runs

from cxr_dist.errors import UserError
from cxr_dist.evaluate.compare import compare
from cxr_dist.evaluate.metrics import strict_json


def test_values_are_those_of_each_metrics_json(tmp_path: Path) -> None:
    found = compare(make_runs(tmp_path)).to_dict()
    assert [(run["name"], run["mode"]) for run in found["runs"]] == [
        ("baseline", "image"),
        ("text-only", "text"),
        ("enhanced", "fused"),
    ]
    for run in found["runs"]:
        written = json.loads((tmp_path / run["name"] / "evaluation/test/metrics.json").read_text())
        auc = run["metrics"]["macro_roc_auc"]
        assert auc == {"value": written["metrics"]["macro"]["roc_auc"]} | {
            side: written["intervals"]["macro"]["roc_auc"][side] for side in ("low", "high")
        }
        assert auc["low"] < auc["value"] < auc["high"]
        assert (
            run["metrics"]["roc_auc/nodule"]["value"] == written["metrics"]["per_class"]["nodule"]["roc_auc"]
        )
    assert found["samples"] == 150
    assert found["made_data"] is True
    strict_json(found)


def test_manifest_is_read_while_it_is_the_one_of_the_run(tmp_path: Path) -> None:
    runs = make_runs(tmp_path)
    manifest = compare(runs, n_bootstrap=50).runs[0].manifest
    assert manifest is not None
    assert manifest.splits["train"].patients == 466
    (tmp_path / "shards" / "manifest.json").write_text("{}")
    assert compare(runs, n_bootstrap=50).runs[0].manifest is None


def test_a_line_that_is_still_being_written_is_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", make_predictions(n=20))
    whole = compare([run], n_bootstrap=50).runs[0].history
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 250, "lo')
    assert compare([run], n_bootstrap=50).runs[0].history == whole


def test_same_folder_names_take_their_parents_along(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / parent / "enhanced", make_predictions(n=20)) for parent in ("seed1", "seed2")]
    assert [run.name for run in compare(runs, n_bootstrap=50).runs] == ["seed1/enhanced", "seed2/enhanced"]


def test_order_of_samples_does_not_matter(tmp_path: Path) -> None:
    made = make_predictions(n=30, passes=0)
    turned = made.select(np.arange(30)[::-1])
    runs = compare([make_run(tmp_path / "a", made), make_run(tmp_path / "b", turned)]).runs
    assert runs[1].predictions.keys == made.keys
    assert np.array_equal(runs[1].predictions.probabilities, made.probabilities)


def test_refuses_what_cannot_be_compared(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", make_predictions(n=30))
    fewer = make_run(tmp_path / "fewer", make_predictions(n=20))
    with pytest.raises(UserError, match=r"different samples \(30 and 20, 20 in common\)"):
        compare([a, fewer])
    others = make_run(tmp_path / "others", make_predictions(n=30, classes=("x", "y", "z")))
    with pytest.raises(UserError, match=r"a and others predict different classes \(normal, .* \| x, y, z\)"):
        compare([a, others])
    relabelled = make_predictions(n=30)
    relabelled.labels[:2] = 4 - relabelled.labels[:2]
    relabelled.labels[3] = (relabelled.labels[3] + 1) % 5
    with pytest.raises(UserError, match=r"different labels \([123] of 30 samples differ\)"):
        compare([a, make_run(tmp_path / "relabelled", relabelled)])
    with pytest.raises(UserError, match="given twice"):
        compare([a, tmp_path / "." / "a"])
    with pytest.raises(UserError, match="name at least one run folder"):
        compare([])


def test_refuses_a_run_without_a_whole_evaluation(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", make_predictions(n=30))
    with pytest.raises(
        UserError, match=r"no evaluation on split 'val': run `cxr-dist evaluate .*a --split val`"
    ):
        compare([run], split="val")
    metrics = run / "evaluation/test/metrics.json"
    whole = json.loads(metrics.read_text())
    metrics.write_text(json.dumps({k: v for k, v in whole.items() if k != "mode"}))
    with pytest.raises(UserError, match=r"metrics\.json of a lacks mode: run `cxr-dist evaluate"):
        compare([run], n_bootstrap=50)
    whole["metrics"]["n"] = 31
    metrics.write_text(json.dumps(whole))
    with pytest.raises(UserError, match=r"has 30 rows, but its metrics\.json says 31"):
        compare([run], n_bootstrap=50)
    metrics.write_text("{")
    with pytest.raises(UserError, match=r"metrics\.json is not JSON \(line 1\)"):
        compare([run], n_bootstrap=50)


def test_refuses_a_folder_that_is_no_whole_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.yaml in .*: that is not a run folder"):
        compare([tmp_path / "nothing"])
    run = make_run(tmp_path / "a", make_predictions(n=30))
    (run / "environment.json").unlink()
    with pytest.raises(UserError, match=r"no environment\.json in .*: that is not a complete run folder"):
        compare([run], n_bootstrap=50)


def warnings_of(folder: Path, text_skill: float, **options) -> str:  # type: ignore[no-untyped-def]
    fused = make_run(folder / "enhanced", make_predictions(skill=2.6, seed=2), mode="fused", **options)
    text = make_run(folder / "text", make_predictions(skill=text_skill, seed=1), mode="text")
    image = make_run(folder / "image", make_predictions(skill=0.5, seed=0), mode="image")
    return "\n".join(compare([fused, text, image], n_bootstrap=20).warnings)


def test_warns_when_the_report_gives_the_answer_away(tmp_path: Path) -> None:
    told = warnings_of(tmp_path / "told", 2.6)
    assert "The report alone (text, macro ROC AUC 0.9" in told
    assert "reaches the 95% interval of enhanced" in told
    assert warnings_of(tmp_path / "silent", 0.8) == ""


def test_warns_of_impression_split_by_image_and_other_shards(tmp_path: Path) -> None:
    sections = ("findings", "impression")
    found = warnings_of(tmp_path, 0.8, sections=sections, split_by="image")
    assert "The text input includes the impression" in found
    assert "The split is by image" in found
    environment = tmp_path / "text" / "environment.json"
    environment.write_text(environment.read_text().replace('"manifest_sha256": "', '"manifest_sha256": "x'))
    assert "different shard folders" in "".join(compare([tmp_path / "enhanced", tmp_path / "text"]).warnings)


def test_warns_where_the_text_holds_what_the_labels_were_made_from(tmp_path: Path) -> None:
    mimic = {"label_source": "mimic_cxr_jpg"}
    found = warnings_of(tmp_path / "default", 0.8, **mimic)
    assert (
        found.count("The labels were made from the reports themselves, by a program (CheXpert or NegBio)")
        == 1
    )
    assert "a model that reads findings reads the text that they were made from" in found
    assert warnings_of(tmp_path / "before", 0.8, sections=("indication", "history"), **mimic) == ""
    assert "by curators" in warnings_of(tmp_path / "openi", 0.8, label_source="openi")
    assert warnings_of(tmp_path / "table", 0.8, label_source="table") == ""
    own = {"label_source": "our labeller", "labels_in_reports": "by our labeller"}
    assert "the reports themselves, by our labeller: a model" in warnings_of(tmp_path / "own", 0.8, **own)


def test_says_which_ablation_is_missing(tmp_path: Path) -> None:
    run = make_run(tmp_path / "enhanced", make_predictions(n=30))
    assert "train one with --model.mode text" in compare([run], n_bootstrap=50).warnings[0]
    assert "No image-only run is compared" in compare([run], n_bootstrap=50).warnings[1]


def test_names_the_command_for_each_kind_of_run_that_is_absent(tmp_path: Path) -> None:
    image, text, fused = runs = make_runs(tmp_path, n=30)
    rest = "--data.shards SHARDS --out RUN_DIR && cxr-dist evaluate RUN_DIR"
    assert compare(runs, n_bootstrap=10).to_dict()["not_evaluated"] == {}
    assert compare([fused, image], n_bootstrap=10).to_dict()["not_evaluated"] == {
        "text": f"cxr-dist train enhanced --model.mode text {rest}"
    }
    # The baseline reads no report: its recipe has no text encoder worth an ablation.
    assert compare([image]).not_evaluated["text"] == f"cxr-dist train enhanced --model.mode text {rest}"
    assert compare([text]).not_evaluated.keys() == {"image", "fused"}


def test_shards_that_moved_are_found_where_they_are_said_to_be(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", make_predictions(n=20))
    moved = (tmp_path / "shards").rename(tmp_path / "moved")
    assert compare([run]).runs[0].manifest is None
    assert compare([run], shards=str(moved)).runs[0].manifest is not None


def test_warns_of_patients_on_both_sides(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", make_predictions(n=30), mode="image", patients_in_training=3)
    assert compare([run], n_bootstrap=50).warnings == (
        "3 of 20 patients are also in the training split: split by patient.",
    )


def test_differences_are_paired_and_to_the_first_run(tmp_path: Path) -> None:
    made = make_predictions(n=60, skill=1.0)
    back = np.arange(60)[::-1]
    runs = [make_run(tmp_path / "a", made), make_run(tmp_path / "same", made.select(back))]
    runs.append(make_run(tmp_path / "better", make_predictions(n=60, skill=4.0, seed=1)))
    found = compare(runs, n_bootstrap=200).to_dict()["runs"]
    assert found[0]["differences"] == {}
    assert found[0]["difference_to"] is None
    for name, difference in found[1]["differences"].items():
        assert (difference["value"], difference["p"]) == (pytest.approx(0, abs=1e-12), 1.0), name
    better = found[2]["differences"]["macro_roc_auc"]
    values = [run["metrics"]["macro_roc_auc"]["value"] for run in (found[2], found[0])]
    assert better["value"] == values[0] - values[1]
    assert 0 < better["low"] < better["value"] < better["high"]
    assert better["p"] <= 2 / 201
    assert found[2]["differences"]["roc_auc/nodule"]["method"] == "DeLong"
    assert found[2]["differences"]["brier"]["high"] < 0
