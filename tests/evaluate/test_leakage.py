"""Leakage is counted from the shards, and an earlier evaluation is reused only if it is of the same checkpoints."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import pytest
from made_runs import make_predictions, make_run

from cxr_dist.config.data import DataConfig
from cxr_dist.data.store import ShardStore
from cxr_dist.evaluate.ablation import Ablation
from cxr_dist.evaluate.leakage import label_terms_redacted, labels_in_text, patients_in_training, warnings
from cxr_dist.evaluate.paired import Difference
from cxr_dist.evaluate.run_result import RunResult, finished_predictions, read_run
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


def result(folder: Path, mode: str, **changes: Any) -> RunResult:
    return read_run(make_run(folder, make_predictions(n=12, passes=0), mode=mode, **changes), folder.name, "test")


def test_runs_without_leakage_give_no_warning_and_absent_inputs_are_named(tmp_path: Path) -> None:
    fused, text, image = (result(tmp_path / mode, mode) for mode in ("fused", "text", "image"))
    assert list(warnings([fused, text, image])) == list(warnings([text, image])) == []
    no_report, no_image = "No report-only run is compared", "No image-only run is compared"
    for runs, expected in (
        ([fused], [no_report, no_image]),
        ([fused, text], [no_image]),
        ([fused, image], [no_report]),
    ):
        found = list(warnings(runs))
        assert len(found) == len(expected)
        assert all(warning.startswith(start) for warning, start in zip(found, expected, strict=True))


def test_what_one_run_leaks_is_said_once(tmp_path: Path) -> None:
    image = result(tmp_path / "image", "image")
    leaks = {
        "The text input includes the impression": {"sections": ("impression",)},
        "The labels were made from the reports themselves": {"label_source": "openi"},
        "The labels were made from the reports themselves, by reading": {"labels_in_reports": "by reading"},
        "The split is by image": {"split_by": "image"},
        f"3 of {image.metrics['patients']} patients are also in the training split": {"patients_in_training": 3},
    }
    for number, (start, changes) in enumerate(leaks.items()):
        texts = [result(tmp_path / f"text {number} {i}", "text", **changes) for i in range(2)]
        (warning,) = warnings([image, *texts])
        assert warning.startswith(start)
        assert warning in warnings(texts[:1])
    unknown = result(tmp_path / "unknown", "image", patients_in_training=None)
    assert list(warnings([unknown, image])) == []
    moved = dataclasses.replace(image, environment=image.environment | {"manifest_sha256": "0" * 64})
    (warning,) = warnings([image, moved])
    assert warning.startswith("The runs were trained on different shard folders")


@pytest.mark.parametrize(
    ("removed", "low", "text_low", "words"),
    [
        ("image", 0.01, 0.7, None),
        ("report", -0.01, 0.7, None),
        ("image", None, 0.7, "is +0.020 (no interval). The report may give the answer away"),
        ("image", -0.01, 0.7, "is +0.020 (−0.010 to +0.050). The report may give the answer away, and the image may"),
        ("image", -0.01, 0.5, "is +0.020 (−0.010 to +0.050)."),
        ("image", 0.0, None, "is +0.020 (+0.000 to +0.050)."),
    ],
)
def test_a_report_that_is_as_good_alone_gives_a_warning(
    tmp_path: Path, removed: str, low: float | None, text_low: float | None, words: str | None
) -> None:
    fused = result(tmp_path / "both", "fused")
    single = result(tmp_path / "one", "text" if removed == "image" else "image")
    intervals = {"macro": {"roc_auc": {"low": text_low, "high": 1.0}}}
    single = dataclasses.replace(single, evaluation=single.evaluation | {"intervals": intervals})
    difference = Difference(value=0.02, low=low, high=None if low is None else 0.05, method="paired bootstrap")
    ablation = Ablation(fused=fused, single=single, differences={"macro_roc_auc": difference})
    found = [warning for warning in warnings([fused, single], [ablation]) if "not shown" in warning]
    start = "both is not shown to be better than the report alone (one): the difference in macro ROC AUC "
    assert [warning.startswith(f"{start}{words}") for warning in found] == ([] if words is None else [True])
    assert all(("give the answer away" in warning) == ("answer" in str(words)) for warning in found)


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
