"""`evaluate --boxes` on squares: a model whose Grad-CAM is the square scores 1; what cannot be scored is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from made_boxes import BOX_RECIPE, finder_run, write_box_shards, write_box_source

from cxr_dist.format.manifest import load_manifest
from cxr_dist.shard.recipe import load_recipe
from cxr_dist.shard.write import write_shards


@pytest.fixture(scope="module")
def box_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_box_shards(tmp_path_factory.mktemp("boxes"))


@pytest.fixture
def explained(cxr_dist):
    """explained(RUN, *arguments) -> the block "explanations" of metrics.json."""

    def evaluate(run: Path, *arguments: object, name: str = "test") -> dict[str, Any]:
        status, _, error = cxr_dist("evaluate", run, "--mc-samples", "0", "--boxes", *arguments)
        assert status == 0, error
        return json.loads((run / "evaluation" / name / "metrics.json").read_text())["explanations"]

    return evaluate


def check_found(block: dict[str, Any], minimum: float = 0.97) -> None:
    """The squares are found, which neither the centred Gaussian nor a random map does."""
    for scores in (block["all"], *block["per_class"].values()):
        cam, gaussian, chance = (scores["maps"][name] for name in ("grad_cam", "centred_gaussian", "random"))
        assert cam["hit_rate"]["value"] == 1
        assert cam["energy_inside"]["value"] > minimum
        assert cam["empty_maps"] == 0
        assert 0.3 < cam["hit_rate"]["low"] < cam["hit_rate"]["high"] == 1
        assert scores["maps"]["attention"] is None
        for other in (gaussian, chance):
            assert other["hit_rate"]["value"] < 0.5
            assert other["energy_inside"]["value"] < 0.4
        assert chance["energy_inside"]["value"] == pytest.approx(scores["area"], abs=0.02)
        difference = scores["difference_to_centred_gaussian"]["grad_cam"]["hit_rate"]
        assert difference["value"] == pytest.approx(1 - gaussian["hit_rate"]["value"])
        assert 0.2 < difference["low"] <= difference["value"] <= difference["high"] <= 1


def test_a_model_whose_map_is_the_square_scores_1(explained, box_shards, tmp_path):
    """The squares are in wide, upright and square images, so their boxes move with scaling and crop."""
    block = explained(finder_run(box_shards, tmp_path / "run"))
    check_found(block)
    stored = load_manifest(box_shards).boxes["stored"]["test"]
    shown = {name: scores["boxes"] for name, scores in block["per_class"].items()}
    assert sum(shown.values()) + block["boxes_outside_crop"] == sum(stored.values())
    assert block["all"]["boxes"] == sum(shown.values())
    assert block["boxes_outside_crop"] > 0
    assert block["classes_without_boxes"] == []
    assert block["input_pixels"] == 40


def test_boxes_change_nothing_else_in_metrics_json(cxr_dist, explained, box_shards, tmp_path):
    run = finder_run(box_shards, tmp_path / "run")
    path = run / "evaluation" / "test" / "metrics.json"
    status, _, error = cxr_dist("evaluate", run, "--mc-samples", "0")
    assert status == 0, error
    without_boxes = json.loads(path.read_text())
    explained(run)
    with_boxes = json.loads(path.read_text())
    del with_boxes["explanations"]
    assert with_boxes == without_boxes


def test_a_fused_model_has_attention_from_the_report_to_the_image(explained, box_shards, tmp_path):
    scores = explained(finder_run(box_shards, tmp_path / "run", mode="fused"))["all"]
    attention = scores["maps"]["attention"]
    assert attention["empty_maps"] == 0
    assert 0 < attention["energy_inside"]["low"] < attention["energy_inside"]["value"] < 0.5
    assert scores["difference_to_centred_gaussian"]["attention"]["energy_inside"]["low"] is not None


def test_the_images_of_a_study_are_explained_together(explained, tmp_path):
    columns = "patient: Patient ID, label", "patient: Patient ID, study: Patient ID, label"
    shards = write_box_shards(tmp_path / "studies", 96, "samples: study\n", *columns)
    block = explained(finder_run(shards, tmp_path / "run"))
    check_found(block)
    assert block["all"]["samples"] < block["all"]["boxes"]


def test_the_boxes_of_a_fold_are_those_of_its_samples(explained, tmp_path):
    split = "split: {by: patient, train: 0.4, val: 0.2, test: 0.4, seed: 0}"
    shards = write_box_shards(tmp_path / "folds", 48, "", split, "split: {by: patient, folds: 3, seed: 0}")
    stored = load_manifest(shards).boxes["stored"]
    assert sum(sum(counts.values()) for counts in stored.values()) == 40
    block = explained(finder_run(shards, tmp_path / "run", fold=1))
    check_found(block)
    assert block["all"]["boxes"] + block["boxes_outside_crop"] == sum(stored["fold1"].values())


def test_classes_of_other_shards_are_matched_by_the_class_map(explained, box_shards, tmp_path):
    run = finder_run(box_shards, tmp_path / "run")
    names = ("classes: {Mass: Mass, Cyst: Cyst}", "classes: {Dark: Cyst, Bright: Mass}")
    boxes = ("classes: {Cyst: Cystic}", "classes: {Dark: Cystic, Bright: Mass}")
    other = write_box_shards(tmp_path / "other", 48, "", *names, *boxes)
    (tmp_path / "map.yaml").write_text("Mass: Bright\nCyst: Dark\n")
    named = ("--shards", other, "--name", "other", "--class-map", tmp_path / "map.yaml")
    block = explained(run, *named, name="other")
    check_found(block)
    (tmp_path / "map.yaml").write_text("Mass: Bright\nCyst: []\nnot evaluated: [Dark]\n")
    few = explained(run, *named, name="other")
    assert few["per_class"] == {"Mass": block["per_class"]["Mass"]}
    assert few["classes_without_boxes"] == ["Cyst"]


@pytest.mark.parametrize(
    ("mode", "shards_have_boxes", "more", "message"),
    [
        ("text", True, (), "this run's model reads no image: leave --boxes out"),
        ("image", False, (), "--boxes needs shards with boxes: name a table of boxes in the recipe"),
        ("image", True, ("--ensemble", "OTHER", "--out", "OUT"), "an ensemble has several: evaluate each run"),
    ],
)
def test_what_cannot_be_explained_is_refused(cxr_dist, box_shards, tmp_path, mode, shards_have_boxes, more, message):
    shards = box_shards
    if not shards_have_boxes:
        shards = write_box_shards(tmp_path, 48, "", "boxes: {table: BBox_List.csv, classes: {Cyst: Cystic}}\n", "")
    run = finder_run(shards, tmp_path / "run", mode)
    if more:
        finder_run(shards, tmp_path / "other", mode)
    places = {"OTHER": tmp_path / "other", "OUT": tmp_path / "out"}
    status, _, error = cxr_dist("evaluate", run, "--boxes", *(places.get(each, each) for each in more))
    assert status == 2
    assert message in error


def test_a_split_without_a_box_is_refused(cxr_dist, tmp_path):
    """A single box is in one split, so the other two have none."""
    (tmp_path / "one").mkdir()
    write_box_source(tmp_path / "one" / "source", 24)
    table = tmp_path / "one" / "source" / "BBox_List.csv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:2]))
    (tmp_path / "recipe.yaml").write_text(BOX_RECIPE.replace(", classes: {Cyst: Cystic}", ""))
    recipe = load_recipe(tmp_path / "recipe.yaml")
    manifest = write_shards(recipe, tmp_path / "one" / "source", tmp_path / "shards", workers=0)
    run = finder_run(tmp_path / "shards", tmp_path / "run")
    (empty, *_) = [split for split, counts in manifest.boxes["stored"].items() if not any(counts.values())]
    status, _, error = cxr_dist("evaluate", run, "--boxes", "--split", empty)
    assert status == 2
    assert f"--boxes needs boxes in the split to evaluate, but {empty} has none; there are" in error
