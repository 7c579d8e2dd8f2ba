"""The methods section and the data flow say what the runs and the manifest recorded, and nothing else."""

import dataclasses
from pathlib import Path

from made_runs import make_ensemble, make_predictions, make_run, make_runs

from cxr_dist.evaluate.compare import compare
from cxr_dist.report.data_flow import data_flow
from cxr_dist.report.methods import methods


def test_sentences_follow_the_configuration(tmp_path: Path) -> None:
    comparison = compare(make_runs(tmp_path, n=60), n_bootstrap=10)
    found = methods(comparison)
    assert "700 images of 466 patients (train)" in found["Data"]
    assert "a program drew and wrote them" in found["Data"]
    assert found["Models"].count("a head with dropout 0.5 and 0.3") == 3
    assert "baseline: a model that sees the film alone" in found["Models"]
    assert "the sections indication, findings (up to 128 tokens)" in found["Models"]
    assert found["Training"].startswith("All runs: cross-entropy with balanced class weights; AdamW")
    assert "resamples of whole patients" in found["Evaluation"]
    assert "chosen on 60 validation images of 40 patients and only then applied" in found["Evaluation"]


def test_runs_that_were_trained_differently_are_told_apart(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, make_predictions(n=20)) for name in ("a", "b")]
    config = runs[1] / "config.yaml"
    config.write_text(config.read_text().replace("mixup_alpha: 0.0", "mixup_alpha: 0.2"))
    text = methods(compare(runs, n_bootstrap=10))["Training"]
    assert text.startswith("a: ")
    assert "b: " in text
    assert text.count("mixup (α 0.2) from epoch 3") == 1


def test_averaged_weights_and_batchnorm_over_ranks_are_told(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", make_predictions(n=20))
    assert "moving average" not in methods(compare([run], n_bootstrap=10))["Training"]
    config = run / "config.yaml"
    changed = config.read_text().replace("ema_decay: 0.0", "ema_decay: 0.999")
    changed = changed.replace("comm_hook: none", "comm_hook: bf16")
    config.write_text(changed.replace("sync_batchnorm: false", "sync_batchnorm: true"))
    text = methods(compare([run], n_bootstrap=10))["Training"]
    assert "an exponential moving average of the weights (decay 0.999)" in text
    assert "BatchNorm over the batches of all ranks" in text
    assert "gradients rounded to bf16 to be summed over ranks" in text


def test_an_ensemble_names_its_members_and_whose_settings_follow(tmp_path: Path) -> None:
    run = make_ensemble(tmp_path / "mean", make_predictions(n=20), seeds=(1, 2), mc_scope="text")
    found = methods(compare([run]))
    assert (
        "an ensemble, the mean of the probabilities of 2 runs (Lakshminarayanan et al. 2017)"
        in found["Models"]
    )
    assert (
        "enhanced sees the film and the report, seed 2, step 180. Its first member is a model"
        in found["Models"]
    )
    assert found["Training"].startswith("mean: its first member: cross-entropy")
    assert found["Evaluation"].endswith(
        "30 passes of all members together with Monte-Carlo dropout in text encoder, fusion and head."
    )


def test_runs_with_other_passes_are_told_apart_and_none_is_said_of_none(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / f"r{n}", make_predictions(n=20, passes=n)) for n in (0, 3, 5)]
    text = methods(compare(runs, n_bootstrap=10))["Evaluation"]
    assert "Uncertainty: r3: 3 passes with Monte-Carlo dropout in fusion and head. r5: 5 passes" in text
    assert "Uncertainty" not in methods(compare(runs[:1]))["Evaluation"]


def test_where_a_text_encoder_lay_is_not_told(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", make_predictions(n=20))
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("text_encoder: tiny", "text_encoder: /home/someone/MiniLM"))
    text = methods(compare([run]))["Models"]
    assert "text encoder MiniLM" in text
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


def test_studies_of_several_films_are_not_called_images(tmp_path: Path) -> None:
    comparison = compare([make_run(tmp_path / "a", make_predictions(n=20))])
    (run,) = comparison.runs
    assert run.manifest is not None
    studies = dataclasses.replace(run.manifest, image=run.manifest.image | {"views": 2}, source_rows=1402)
    flow = data_flow(studies)
    assert (flow.kept, flow.unit) == (1400, "studies")  # films of 870 studies
    text = methods(dataclasses.replace(comparison, runs=(dataclasses.replace(run, manifest=studies),)))[
        "Data"
    ]
    assert "Of 1402 source rows, 1400 images were kept" in text
    assert "700 studies of 466 patients (train)" in text
    assert "A sample is a study, with up to 2 of its films." in text
