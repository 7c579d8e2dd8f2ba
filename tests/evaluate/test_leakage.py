"""Leakage is counted from the shards, and an earlier evaluation is reused only if it is of the same checkpoints."""

import contextlib
import dataclasses
from pathlib import Path

from made_runs import make_predictions, make_run

from cxr_dist.config.data import DataConfig
from cxr_dist.data.store import ShardStore
from cxr_dist.evaluate.leakage import label_terms_redacted, labels_in_text, patients_in_training
from cxr_dist.evaluate.run_result import finished_predictions
from cxr_dist.evaluate.subgroups import read_attributes
from cxr_dist.format.manifest import load_manifest


def test_patients_in_training_are_counted(tiny_shards: Path) -> None:
    manifest, data = load_manifest(tiny_shards), DataConfig(shards=str(tiny_shards))
    assert patients_in_training(data, manifest, "test") == 0
    leaky = dataclasses.replace(manifest, splits=manifest.splits | {"test": manifest.splits["train"]})
    assert patients_in_training(data, leaky, "test") == manifest.splits["train"].patients > 0
    assert patients_in_training(data, manifest, "train") == 0


def test_labels_from_the_reports_warn_of_the_sections_that_are_written_after_the_image_is_read() -> None:
    assert labels_in_text("two radiologists", ("findings", "impression")) == ""
    before = ("indication", "history", "examination", "technique", "comparison")
    assert labels_in_text("mimic_cxr_jpg", before) == ""
    warning = labels_in_text("mimic_cxr_jpg", (*before, "findings", "impression"))
    assert warning.startswith("The labels were made from the reports themselves, by a program (CheXpert or")
    assert " reads findings, impression reads the text that they were made from." in warning
    assert "by reading them" in labels_in_text("own", ("notes",), "by reading them")


def test_redaction_is_read_from_the_recipe(tiny_shards: Path) -> None:
    manifest = load_manifest(tiny_shards)
    assert not label_terms_redacted(manifest)
    recipe = manifest.recipe | {"redact": ["nodule"]}
    assert label_terms_redacted(dataclasses.replace(manifest, recipe=recipe))


def test_attributes_are_read_in_the_order_of_the_split(tiny_shards: Path) -> None:
    manifest = load_manifest(tiny_shards)
    with contextlib.closing(ShardStore(tiny_shards, manifest, "train")) as store:
        result = read_attributes(store)
    assert len(result["view"]) == manifest.splits["train"].samples
    assert set(result["view"]) == {"PA", "LATERAL"}
    assert set(result["sex"]) == {"F", "M"}
    assert set(result["age_band"]) == {"18 to 39", "40 to 64", "65 and over"}


def test_an_earlier_evaluation_is_reused_only_for_the_same_checkpoint_and_shards(tmp_path: Path) -> None:
    predictions = make_predictions(n=20)
    members = [{"seed": 42, "checkpoint_step": 180}]
    run = make_run(tmp_path / "a", predictions, manifest_sha256="b" * 64, members=members)
    other = [{"seed": 42, "checkpoint_step": 181}]
    result = finished_predictions(run, "test", members, "b" * 64)
    assert result is not None
    assert result.keys == predictions.keys
    assert finished_predictions(run, "test", other, "b" * 64) is None
    assert finished_predictions(run, "test", members, "c" * 64) is None
    assert finished_predictions(run, "val", members, "b" * 64) is None
