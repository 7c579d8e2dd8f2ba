"""`cxr-dist evaluate --audit` finds what a trained model uses where the data leave it only one input to learn from."""

import json

import pytest
from made_shards import write_one_sided_shards

SETTINGS = "--data.image-size 32 --data.global-batch 32 --data.micro-batch 16 --train.epochs 6 --optim.lr 0.002"
SETTINGS += " --data.text-sections findings --train.mixup-alpha 0"
SETTINGS += " --loss.name cross_entropy --loss.class-weights none --data.max-tokens 16"


@pytest.mark.parametrize(("used", "unused"), [("report", "image"), ("image", "report")])
def test_a_fused_model_falls_under_the_swap_of_the_input_that_shows_the_class(cxr_dist, tmp_path, used, unused):
    """Takes about 10 s: a network must learn the class from one of its inputs."""
    shards, run = write_one_sided_shards(tmp_path, used, num_images=400), tmp_path / "run"
    status, _, said = cxr_dist("train", "demo", *SETTINGS.split(), "--data.shards", shards, "--out", run)
    assert status == 0, said
    status, out, _ = cxr_dist("evaluate", run, "--mc-samples", 0, "--audit")
    assert status == 0
    block = json.loads((run / "evaluation" / "test" / "metrics.json").read_text())["audit"]
    falls = {name: block[name]["other_labels"]["metrics"]["macro_roc_auc"] for name in (used, unused)}
    assert falls[used]["before"] > 0.9
    assert falls[used]["after"] < 0.3  # swapped for the other class
    assert falls[used]["low"] > 0.5
    assert abs(falls[unused]["fall"]) < 0.1
    assert abs(block[used]["same_label"]["metrics"]["macro_roc_auc"]["fall"]) < 0.1
    assert f"the model uses the {used}" in " ".join(out.split())


@pytest.mark.parametrize(("mode", "read", "other"), [("image", "image", "report"), ("text", "report", "image")])
def test_a_run_of_one_input_is_audited_for_that_input(cxr_dist, a_run, mode, read, other):
    run = a_run(mode)
    assert cxr_dist("evaluate", run, "--mc-samples", 0, "--audit")[0] == 0
    metrics = json.loads((run / "evaluation" / "test" / "metrics.json").read_text())
    block = metrics["audit"]
    assert block[other] == {"reason": f"the model reads no {other}, so a swap of {other}s changes nothing"}
    assert block[read]["other_labels"]["n"] == metrics["metrics"]["n"]
    before = block[read]["other_labels"]["metrics"]
    assert before["macro_roc_auc"]["before"] == metrics["metrics"]["macro"]["roc_auc"]
    assert before["log_loss"]["before"] == metrics["metrics"]["log_loss"]
    assert before["macro_roc_auc"]["after"] != before["macro_roc_auc"]["before"]


def test_without_audit_nothing_is_swapped(cxr_dist, a_run):
    run = a_run()
    assert cxr_dist("evaluate", run, "--mc-samples", 0)[0] == 0
    assert "audit" not in json.loads((run / "evaluation" / "test" / "metrics.json").read_text())


def test_a_later_evaluation_keeps_the_audit_unless_its_metrics_differ(cxr_dist, a_run):
    run = a_run()
    path = run / "evaluation" / "test" / "metrics.json"
    assert cxr_dist("evaluate", run, "--mc-samples", 0, "--audit")[0] == 0
    audited = path.read_bytes()
    status, out, said = cxr_dist("evaluate", run, "--mc-samples", 0)
    assert status == 0, said
    assert path.read_bytes() == audited
    assert "Kept: the audit, from an earlier evaluation of this checkpoint with the same metrics." in out
    other = json.loads(audited)
    other["metrics"]["macro"]["roc_auc"] += 1e-9
    path.write_text(json.dumps(other))
    status, out, _ = cxr_dist("evaluate", run, "--mc-samples", 0)
    assert status == 0
    assert "audit" not in json.loads(path.read_text())
    assert "Dropped: the audit of an earlier evaluation, whose metrics differ. Repeat it with --audit." in out


def test_classes_that_other_shards_lack_are_neither_swapped_nor_a_source_of_swaps(cxr_dist, a_run, other_shards):
    run = a_run()
    shards = other_shards("Nodule: nodule", "Mass: nodule")
    class_map = run / "map.yaml"
    class_map.write_text("not evaluated: [Mass]\n")
    arguments = ("--shards", shards, "--name", "other", "--class-map", class_map, "--mc-samples", 0, "--audit")
    status, _, said = cxr_dist("evaluate", run, *arguments)
    assert status == 0, said
    metrics = json.loads((run / "evaluation" / "other" / "metrics.json").read_text())
    assert metrics["external"]["samples_left_out"]["Mass"] > 0
    assert metrics["audit"]["image"]["other_labels"]["n"] == metrics["metrics"]["n"]
