"""The methods section and the data flow state what the runs and the manifest recorded."""

import dataclasses
from pathlib import Path

from made_folds import make_fold_runs
from made_runs import make_ensemble, make_predictions, make_run, make_runs

from cxr_dist.evaluate.compare import compare
from cxr_dist.report.data_flow import data_flow
from cxr_dist.report.methods import methods


def test_sentences_follow_the_configuration(tmp_path: Path) -> None:
    comparison = compare(make_runs(tmp_path, n=60), n_bootstrap=10)
    text = methods(comparison)
    assert "700 images of 466 patients (train)" in text["Data"]
    assert "The images and reports are synthetic." in text["Data"]
    assert text["Models"].count("dropout rates of 0.5 and 0.3") == 3
    assert "baseline: The model reads the image alone" in text["Models"]
    assert "The report sections indication, findings (at most 128 tokens)" in text["Models"]
    assert text["Training"].startswith(
        "All runs: The loss is cross-entropy with balanced class weights. The optimizer is AdamW"
    )
    assert "resamples of whole patients" in text["Evaluation"]
    assert "chosen on 60 validation images of 40 patients and then applied without change" in text["Evaluation"]


def test_folds_audits_boxes_and_sets_are_described_only_if_a_run_or_a_fold_has_them(tmp_path: Path) -> None:
    plain = methods(compare([make_run(tmp_path / "a", make_predictions(n=30, passes=0))], n_bootstrap=10))["Evaluation"]
    runs = make_fold_runs(tmp_path / "cv", make_predictions(n=60, passes=0), audit={}, explanations={})
    pooled = methods(compare(runs, n_bootstrap=10))["Evaluation"]
    own = [make_run(tmp_path / "b", make_predictions(n=60), validation=make_predictions(n=60, data=8))]
    sets = methods(compare(own, n_bootstrap=10))["Evaluation"]
    for words, texts in {
        "In a cross-validation, each run was tested on one fold": [pooled],
        "In the modality audit, the image or the report": [pooled],
        "by the pointing game": [pooled],
        "Prediction sets were chosen on the validation split": [sets],
    }.items():
        assert [words in text for text in (plain, pooled, sets)] == [text in texts for text in (plain, pooled, sets)]


def test_runs_that_were_trained_differently_are_described_separately(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, make_predictions(n=20)) for name in ("a", "b")]
    config = runs[1] / "config.yaml"
    config.write_text(config.read_text().replace("mixup_alpha: 0.0", "mixup_alpha: 0.2"))
    text = methods(compare(runs, n_bootstrap=10))["Training"]
    assert text.startswith("a: ")
    assert "b: " in text
    assert text.count("Mixup (α 0.2) was applied from epoch 3.") == 1


def test_averaged_weights_batchnorm_over_ranks_and_rounded_gradients_are_stated(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", make_predictions(n=20))
    assert "moving average" not in methods(compare([run], n_bootstrap=10))["Training"]
    config = run / "config.yaml"
    changed = config.read_text().replace("ema_decay: 0.0", "ema_decay: 0.999")
    changed = changed.replace("comm_hook: none", "comm_hook: bf16")
    config.write_text(changed.replace("sync_batchnorm: false", "sync_batchnorm: true"))
    text = methods(compare([run], n_bootstrap=10))["Training"]
    assert "The weights are an exponential moving average (decay 0.999)" in text
    assert "Batch normalization used the batches of all ranks" in text
    assert "Gradients were rounded to bf16 before they were summed over ranks" in text


def test_an_ensemble_names_its_members_and_the_owner_of_the_settings(tmp_path: Path) -> None:
    run = make_ensemble(tmp_path / "mean", make_predictions(n=20), seeds=(1, 2), mc_scope="text")
    text = methods(compare([run]))
    assert "An ensemble averages the probabilities of 2 runs (Lakshminarayanan et al. 2017)" in text["Models"]
    assert "enhanced reads the image and the report, seed 2, step 180. Its first member is" in text["Models"]
    assert text["Training"].startswith("mean: The settings are those of the first member. The loss is")
    assert text["Evaluation"].endswith(
        "30 passes of all members together with Monte-Carlo dropout in the text encoder, the fusion and the head."
    )


def test_uncertainty_is_described_by_number_of_passes_and_only_for_runs_with_passes(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / f"r{n}", make_predictions(n=20, passes=n)) for n in (0, 3, 5)]
    text = methods(compare(runs, n_bootstrap=10))["Evaluation"]
    assert "r3: 3 passes with Monte-Carlo dropout in the fusion and the head. r5: 5 passes" in text
    assert "Uncertainty" not in methods(compare(runs[:1]))["Evaluation"]


def test_the_path_of_a_text_encoder_is_not_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", make_predictions(n=20))
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("text_encoder: tiny", "text_encoder: /home/someone/MiniLM"))
    text = methods(compare([run]))["Models"]
    assert "encoded by the text encoder MiniLM." in text
    assert "someone" not in text


def test_every_source_row_is_accounted_for(tmp_path: Path) -> None:
    manifest = compare([make_run(tmp_path / "a", make_predictions(n=20))]).runs[0].manifest
    assert manifest is not None
    left_out = {"no label": 1, "image not readable": 5}
    flow = data_flow(dataclasses.replace(manifest, left_out=left_out, source_rows=876))
    assert list(flow.left_out) == ["image not readable", "no label"]
    assert flow.source_rows == sum(flow.left_out.values()) + flow.kept == 6 + 700 + 150 + 20
    assert [box.name for box in flow.splits] == ["Training", "Validation", "Test"]
    assert flow.splits[0].classes["nodule"] == "70"
    unknown = {"nodule": {"positive": 3, "negative": 4, "unknown": 2}}
    split = dataclasses.replace(manifest.splits["train"], label_counts=unknown)
    flow = data_flow(dataclasses.replace(manifest, splits={"train": split}))
    assert flow.splits[0].classes == {"nodule": "3 (+ 2 unknown)"}


def test_studies_of_several_images_are_not_called_images(tmp_path: Path) -> None:
    comparison = compare([make_run(tmp_path / "a", make_predictions(n=20))])
    (run,) = comparison.runs
    assert run.manifest is not None
    studies = dataclasses.replace(run.manifest, image=run.manifest.image | {"views": 2}, source_rows=1402)
    flow = data_flow(studies)
    assert (flow.kept, flow.unit) == (1400, "studies")  # images of 870 studies
    text = methods(dataclasses.replace(comparison, runs=(dataclasses.replace(run, manifest=studies),)))["Data"]
    assert "Of 1402 source rows, 1400 images were kept" in text
    assert "700 studies of 466 patients (train)" in text
    assert "A sample is a study with up to 2 images." in text
