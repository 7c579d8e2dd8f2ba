"""`cxr-dist predict --image` writes a picture and JSON of one case, and nothing private anywhere else."""

import json
import shutil
import stat

import numpy as np
import pytest

from cxr_dist.evaluate.calibration import Calibrator

MODES = ("image", "text", "fused")


def arguments(images, mode, out):
    image = ("--image", images / "smith-0.jpg") if mode != "text" else ()
    report = ("--report", (images / "smith-0.txt").read_text(), "--section", "findings") if mode != "image" else ()
    return (*image, *report, "--mc-samples", "5", "--out", out)


@pytest.mark.parametrize("mode", MODES)
def test_one_case_gives_a_picture_and_json(cxr_dist, run_of, images, tmp_path, mode):
    out = tmp_path / "new" / "look.png"
    status, printed, err = cxr_dist("predict", run_of(mode), *arguments(images, mode, out))
    assert (status, err) == (0, "")
    answer, shown = json.loads(out.with_suffix(".json").read_text()), json.loads(printed)
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "not for clinical use" in answer["note"]
    assert sum(answer["probability"].values()) == pytest.approx(1, abs=1e-5)
    assert (answer["mc_passes"], answer["mc_scope"], answer["temperature"]) == (5, "head", None)
    assert answer["probability"][answer["explained_class"]] == max(answer["probability"].values())
    if mode != "image":
        del answer["report"]["words"]
    assert {name: answer.get(name) for name in shown} == shown | {"picture": None, "json": None}
    assert (answer["heat_map"] is None) == (mode == "text")
    if mode != "text":
        assert [len(row) for row in answer["heat_map"]] == [2, 2]  # 64 pixels are 2 × 2 image tokens
    assert (answer["report"] is None) == (mode == "image")


@pytest.mark.parametrize("mode", ["text", "fused"])
def test_the_words_are_only_in_files_that_only_their_owner_can_read(cxr_dist, run_of, images, tmp_path, mode):
    out = tmp_path / "look.png"
    _, printed, _ = cxr_dist("predict", run_of(mode), *arguments(images, mode, out))
    report = (images / "smith-0.txt").read_text()
    scored = json.loads(out.with_suffix(".json").read_text())["report"]
    words = [entry["word"] for entry in scored["words"]]
    assert "".join(report.split()).startswith("".join(words))
    assert scored["words_cut_off"] > 0
    attention = sum(entry["attention"] for entry in scored["words"])
    assert attention + scored["attention_on_special_tokens"] == pytest.approx(1, abs=1e-4)
    assert not [word for word in words if len(word) > 5 and word in printed]
    for path in (out, out.with_suffix(".json")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_every_scope_works_and_no_passes_give_no_intervals(cxr_dist, run_of, images, tmp_path):
    given = arguments(images, "fused", tmp_path / "a.png")
    for scope in ("head", "text", "all"):
        _, printed, _ = cxr_dist("predict", run_of("fused"), *given, "--mc-scope", scope)
        assert json.loads(printed)["mc_scope"] == scope
    _, printed, _ = cxr_dist("predict", run_of("fused"), *given, "--mc-samples", "0")
    answer = json.loads(printed)
    assert (answer["mc_passes"], answer["mc_scope"]) == (0, None)
    assert "mc_mean" not in answer
    status, _, err = cxr_dist(
        "predict", run_of("image"), *arguments(images, "image", tmp_path / "b.png"), "--mc-scope", "text"
    )
    assert status == 2
    assert "--mc-scope text: this run's model reads no report; use head or all" in err


def test_the_calibrator_of_an_evaluation_calibrates_predictions(cxr_dist, run_of, images, tmp_path):
    run_dir = run_of("text")
    assert cxr_dist("evaluate", run_dir, "--mc-samples", "0")[0] == 0
    _, printed, _ = cxr_dist("predict", run_dir, *arguments(images, "text", tmp_path / "a.png"))
    metrics = json.loads((run_dir / "evaluation" / "test" / "metrics.json").read_text())
    answer, calibration = json.loads(printed), metrics["calibration"]
    assert (answer["temperature"], answer["calibration"]) == (calibration["temperature"], calibration["method"])
    calibrator = Calibrator.recorded(calibration, tuple(answer["probability"]))
    calibrated = calibrator.apply(np.array(list(answer["probability"].values())), "multiclass")
    shown = answer["calibrated" if calibrator.method != "none" else "probability"]
    np.testing.assert_allclose(list(shown.values()), calibrated, atol=1e-4)


@pytest.mark.parametrize(
    ("mode", "given", "message"),
    [
        ("fused", (), "say what to predict: --image FILE and --report TEXT, or --input FOLDER or TABLE.csv"),
        ("fused", ("--image", "a.png", "--input", "b"), "say what to predict: --image FILE"),
        ("fused", ("--image", "a.png", "--batch", "8"), "--batch is the number of images per forward pass"),
        ("fused", ("--input", "b", "--batch", "0"), "--batch is 0; expected 1 or more"),
        (
            "fused",
            ("--report", "x"),
            "this run's model reads an image, but the case has none: give a PNG, JPEG or DICOM image",
        ),
        ("image", ("--image", "/dev/null", "--report", "x"), "reads no report: leave the report out"),
        (
            "fused",
            ("--image", "a.png", "--no-report"),
            "--image a.png does not exist: expected a PNG, JPEG or DICOM image",
        ),
        (
            "fused",
            ("--image", "/dev/null", "--out", "a.jpg"),
            "--out ends in .jpg: the name of the picture must end in .png",
        ),
    ],
)
def test_invalid_requests_are_refused_with_one_line(cxr_dist, run_of, tmp_path, monkeypatch, mode, given, message):
    run_dir = run_of(mode)
    monkeypatch.chdir(tmp_path)
    status, _, err = cxr_dist("predict", run_dir, *given)
    assert status == 2
    assert message in err
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_not_an_image_is_refused_without_its_name(cxr_dist, run_of, tmp_path):
    (tmp_path / "smith.png").write_text("hello")
    status, _, err = cxr_dist("predict", run_of("image"), "--image", tmp_path / "smith.png")
    assert status == 2
    assert "the image cannot be used: image not readable; expected a PNG, JPEG or DICOM file" in err
    assert "smith" not in err


def test_the_message_about_a_damaged_best_checkpoint_gives_two_remedies(cxr_dist, run_of, images, tmp_path):
    run_dir = shutil.copytree(run_of("image"), tmp_path / "run", symlinks=True)
    (run_dir / "best" / "model.safetensors").write_bytes(b"")
    status, _, err = cxr_dist("predict", run_dir, "--image", images / "smith-0.jpg", "--out", tmp_path / "p.png")
    assert status == 2
    assert "step-00000007: model.safetensors does not have the bytes that were written" in err
    assert "Restore it from a copy, or delete best there" in err
