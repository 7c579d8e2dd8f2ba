"""Run folders are compared, or refused with the reason."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from made_runs import make_predictions, make_run, make_runs, softmax

from cxr_dist.errors import UserError
from cxr_dist.evaluate.compare import compare
from cxr_dist.evaluate.metrics import strict_json
from cxr_dist.report.page import write_page


def test_values_equal_those_of_each_metrics_json(tmp_path: Path) -> None:
    result = compare(make_runs(tmp_path)).to_dict()
    assert [(run["name"], run["mode"]) for run in result["runs"]] == [
        ("baseline", "image"),
        ("text-only", "text"),
        ("enhanced", "fused"),
    ]
    for run in result["runs"]:
        written = json.loads((tmp_path / run["name"] / "evaluation/test/metrics.json").read_text())
        auc = run["metrics"]["macro_roc_auc"]
        assert auc == {"value": written["metrics"]["macro"]["roc_auc"]} | {
            side: written["intervals"]["macro"]["roc_auc"][side] for side in ("low", "high")
        }
        assert auc["low"] < auc["value"] < auc["high"]
        assert run["metrics"]["roc_auc/nodule"]["value"] == written["metrics"]["per_class"]["nodule"]["roc_auc"]
    assert result["samples"] == 150
    assert result["made_data"] is True
    strict_json(result)


def test_the_manifest_is_read_only_if_the_run_was_trained_on_it(tmp_path: Path) -> None:
    runs = make_runs(tmp_path)
    manifest = compare(runs, n_bootstrap=50).runs[0].manifest
    assert manifest is not None
    assert manifest.splits["train"].patients == 466
    (tmp_path / "shards" / "manifest.json").write_text("{}")
    assert compare(runs, n_bootstrap=50).runs[0].manifest is None


def test_an_incomplete_last_line_of_metrics_jsonl_is_ignored(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", make_predictions(n=20))
    whole = compare([run], n_bootstrap=50).runs[0].history
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 250, "lo')
    assert compare([run], n_bootstrap=50).runs[0].history == whole


def test_an_unfinished_run_is_recorded_with_its_step(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, make_predictions(n=20), finished=name == "whole") for name in ("whole", "cut")]
    comparison = compare(runs, n_bootstrap=50)
    assert [run.unfinished for run in comparison.runs] == ["", "step 240 of 420"]  # 20 epochs of 700 // 32 steps
    assert [run["unfinished"] for run in comparison.to_dict()["runs"]] == [None, "step 240 of 420"]
    (tmp_path / "shards" / "manifest.json").unlink()
    assert compare(runs[1:], n_bootstrap=50).runs[0].unfinished == "step 240 of 20 epochs"


def test_equal_folder_names_are_distinguished_by_their_parents(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / parent / "enhanced", make_predictions(n=20)) for parent in ("seed1", "seed2")]
    assert [run.name for run in compare(runs, n_bootstrap=50).runs] == ["seed1/enhanced", "seed2/enhanced"]


def test_the_order_of_samples_does_not_matter(tmp_path: Path) -> None:
    predictions = make_predictions(n=30, passes=0)
    reverse = predictions.select(np.arange(30)[::-1])
    runs = compare([make_run(tmp_path / "a", predictions), make_run(tmp_path / "b", reverse)]).runs
    assert runs[1].predictions.keys == predictions.keys
    assert np.array_equal(runs[1].predictions.probabilities, predictions.probabilities)


def test_refuses_runs_that_are_not_comparable(tmp_path: Path) -> None:
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


def test_refuses_a_run_with_an_incomplete_evaluation(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", make_predictions(n=30))
    with pytest.raises(UserError, match=r"no evaluation on split 'val': run `cxr-dist evaluate .*a --split val`"):
        compare([run], split="val")
    metrics = run / "evaluation/test/metrics.json"
    whole = json.loads(metrics.read_text())
    metrics.write_text(json.dumps({k: v for k, v in whole.items() if k != "mode"}))
    with pytest.raises(UserError, match=r"metrics\.json of a lacks mode: run `cxr-dist evaluate"):
        compare([run], n_bootstrap=50)
    for block in ("metrics", "intervals"):
        metrics.write_text(json.dumps(whole | {block: None}))
        with pytest.raises(UserError, match=rf"metrics\.json of a lacks {block}: run `cxr-dist evaluate"):
            compare([run], n_bootstrap=50)
    for field in ("task", "n", "macro", "per_class"):
        rest = {name: value for name, value in whole["metrics"].items() if name != field}
        metrics.write_text(json.dumps(whole | {"metrics": rest}))
        with pytest.raises(UserError, match=rf"metrics\.json of a lacks metrics\.{field}: run `cxr-dist evaluate"):
            compare([run], n_bootstrap=50)
    metrics.write_text(json.dumps(whole | {"metrics": whole["metrics"] | {"macro": {}}}))
    with pytest.raises(UserError, match=r"metrics\.json lacks macro/[a-z_]+ in its metrics: run `cxr-dist evaluate"):
        write_page(compare([run], n_bootstrap=50), tmp_path / "page.html")
    metrics.write_text(json.dumps(whole | {"intervals": whole["intervals"] | {"accuracy": 0.5, "macro": 0.5}}))
    with pytest.raises(UserError, match=r"metrics\.json lacks [a-z_/]+ in its intervals: run `cxr-dist evaluate"):
        write_page(compare([run], n_bootstrap=50), tmp_path / "page.html")
    whole["metrics"]["n"] = 31
    metrics.write_text(json.dumps(whole))
    with pytest.raises(UserError, match=r"has 30 rows, but its metrics\.json says 31"):
        compare([run], n_bootstrap=50)
    metrics.write_text("{")
    with pytest.raises(UserError, match=r"metrics\.json is not JSON \(.*line 1"):
        compare([run], n_bootstrap=50)


def test_refuses_an_incomplete_run_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.yaml in .*: that is not a run folder"):
        compare([tmp_path / "nothing"])
    run = make_run(tmp_path / "a", make_predictions(n=30))
    (run / "environment.json").unlink()
    with pytest.raises(UserError, match=r"no environment\.json in .*: that is not a complete run folder"):
        compare([run], n_bootstrap=50)


def warnings_of(folder: Path, text_skill: float, fused_skill=2.6, **options) -> str:  # type: ignore[no-untyped-def]
    fused = make_run(folder / "enhanced", make_predictions(skill=fused_skill, seed=2), mode="fused", **options)
    text = make_run(folder / "text", make_predictions(skill=text_skill, seed=1), mode="text")
    image = make_run(folder / "image", make_predictions(skill=0.5, seed=0), mode="image")
    return "\n".join(compare([fused, text, image], n_bootstrap=20).warnings)


def test_warns_when_the_report_gives_the_answer_away(tmp_path: Path) -> None:
    warnings = warnings_of(tmp_path / "leaking", 2.6)
    assert "enhanced is not shown to be better than the report alone (text): the difference in macro ROC" in warnings
    assert "The report may give the answer away" in warnings
    assert warnings_of(tmp_path / "weak", 0.8) == ""
    without_skill = warnings_of(tmp_path / "chance", 0.0, fused_skill=0.0)
    assert "enhanced is not shown to be better than the report alone" in without_skill
    assert "give the answer away" not in without_skill


def test_the_warning_follows_from_the_paired_difference(tmp_path: Path) -> None:
    """A report-only run within the interval of the fused run is no reason for a warning if the image adds something."""
    random = np.random.default_rng(5)
    text = make_predictions(n=150, skill=1.2, seed=1, passes=0)
    target = np.eye(5)[text.labels[:, 0]]
    logits = np.log(text.probabilities) + 0.08 * target + random.normal(0, 0.3, size=target.shape)
    fused = dataclasses.replace(text, probabilities=softmax(logits))
    runs = [make_run(tmp_path / "text", text, mode="text"), make_run(tmp_path / "fused", fused, mode="fused")]
    comparison = compare(runs)
    text_auc, fused_auc = (run.estimate("macro", "roc_auc") for run in comparison.runs)
    assert text_auc.value > fused_auc.low
    (ablation,) = comparison.ablations
    assert ablation.differences["macro_roc_auc"].low > 0
    assert not any("not shown to be better" in warning for warning in comparison.warnings)


def test_warns_of_impression_split_by_image_and_different_shards(tmp_path: Path) -> None:
    sections = ("findings", "impression")
    result = warnings_of(tmp_path, 0.8, sections=sections, split_by="image")
    assert "The text input includes the impression" in result
    assert "The split is by image" in result
    environment = tmp_path / "text" / "environment.json"
    environment.write_text(environment.read_text().replace('"manifest_sha256": "', '"manifest_sha256": "x'))
    assert "different shard folders" in "".join(compare([tmp_path / "enhanced", tmp_path / "text"]).warnings)


def test_warns_if_the_labels_were_made_from_the_text_input(tmp_path: Path) -> None:
    mimic = {"label_source": "mimic_cxr_jpg"}
    result = warnings_of(tmp_path / "default", 0.8, **mimic)
    warning = "The labels were made from the reports themselves, by a program (CheXpert or NegBio)"
    assert result.count(warning) == 1
    assert "a model that reads findings reads the text that they were made from" in result
    assert warnings_of(tmp_path / "before", 0.8, sections=("indication", "history"), **mimic) == ""
    assert "by curators" in warnings_of(tmp_path / "openi", 0.8, label_source="openi")
    assert warnings_of(tmp_path / "table", 0.8, label_source="table") == ""
    own = {"label_source": "our labeller", "labels_in_reports": "by our labeller"}
    assert "the reports themselves, by our labeller: a model" in warnings_of(tmp_path / "own", 0.8, **own)


def test_warns_of_missing_ablations(tmp_path: Path) -> None:
    run = make_run(tmp_path / "enhanced", make_predictions(n=30))
    assert "train one with --model.mode text" in compare([run], n_bootstrap=50).warnings[0]
    assert "No image-only run is compared" in compare([run], n_bootstrap=50).warnings[1]


def test_names_the_commands_for_each_absent_mode(tmp_path: Path) -> None:
    image, text, fused = runs = make_runs(tmp_path, n=30)
    rest = "--data.shards SHARDS --out RUN_DIR && cxr-dist evaluate RUN_DIR"
    assert compare(runs, n_bootstrap=10).to_dict()["not_evaluated"] == {}
    assert compare([fused, image], n_bootstrap=10).to_dict()["not_evaluated"] == {
        "text": f"cxr-dist train enhanced --model.mode text {rest}"
    }
    # The baseline has no text encoder, so the command names the run with text that it is compared to.
    assert compare([image]).not_evaluated["text"] == f"cxr-dist train enhanced --model.mode text {rest}"
    assert compare([text]).not_evaluated.keys() == {"image", "fused"}


def test_moved_shards_are_read_from_the_given_folder(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", make_predictions(n=20))
    moved = (tmp_path / "shards").rename(tmp_path / "moved")
    assert compare([run]).runs[0].manifest is None
    assert compare([run], shards=str(moved)).runs[0].manifest is not None


def test_warns_of_test_patients_in_training(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", make_predictions(n=30), mode="image", patients_in_training=3)
    assert compare([run], n_bootstrap=50).warnings == (
        "3 of 20 patients are also in the training split: split by patient.",
    )


def test_differences_are_paired_and_relative_to_the_first_run(tmp_path: Path) -> None:
    predictions = make_predictions(n=60, skill=1.0)
    reverse = np.arange(60)[::-1]
    runs = [make_run(tmp_path / "a", predictions), make_run(tmp_path / "same", predictions.select(reverse))]
    runs.append(make_run(tmp_path / "better", make_predictions(n=60, skill=4.0, seed=1)))
    result = compare(runs, n_bootstrap=200).to_dict()["runs"]
    assert result[0]["differences"] == {}
    assert result[0]["difference_to"] is None
    for name, difference in result[1]["differences"].items():
        assert (difference["value"], difference["p"]) == (pytest.approx(0, abs=1e-12), 1.0), name
    better = result[2]["differences"]["macro_roc_auc"]
    values = [run["metrics"]["macro_roc_auc"]["value"] for run in (result[2], result[0])]
    assert better["value"] == values[0] - values[1]
    assert 0 < better["low"] < better["value"] < better["high"]
    assert better["p"] <= 2 / 201
    assert result[2]["differences"]["roc_auc/nodule"]["method"] == "DeLong"
    assert result[2]["differences"]["brier"]["high"] < 0
