"""What a model reads is known from its folder's settings, so a case that does not fit is refused before torch."""

import json
import subprocess
import sys

import pytest
import torch

from cxr_dist.inference.export import export
from cxr_dist.inference.opened import open_model
from cxr_dist.inference.reading import reading_in

# Runs each command line of the list; prints the exit statuses and whether torch was imported.
COMMANDS = """
import json, sys
from cxr_dist.cli.ending import status_after
from cxr_dist.cli.main import _dispatch
statuses = [status_after(lambda: _dispatch(command)) for command in json.loads(sys.argv[1])]
print(json.dumps([statuses, "torch" in sys.modules]))
"""


@pytest.fixture(scope="module")
def folders(run_of, tmp_path_factory):
    """folders[mode] -> the run folder and the exported folder of a model."""
    out = tmp_path_factory.mktemp("exports")
    for mode in ("image", "text", "fused"):
        export(run_of(mode), out / mode, with_onnx=False)
    return {mode: (run_of(mode), out / mode) for mode in ("image", "text", "fused")}


@pytest.mark.parametrize("mode", ["image", "text", "fused"])
def test_the_settings_say_what_the_opened_model_says(folders, mode):
    for folder in folders[mode]:
        early, opened = reading_in(folder), open_model(folder, torch.device("cpu")).reading
        assert (early.uses_image, early.uses_text, early.views) == (opened.uses_image, opened.uses_text, opened.views)
        assert early.rules == opened.rules or mode == "image"


def test_what_the_settings_do_not_say_is_left_to_opening(folders, tmp_path):
    assert reading_in(tmp_path) is None
    run = folders["fused"][0]
    for content in ("", "[]", "{}", '{"text": null}', "run: demo\n", "\x00"):
        for name in ("config.yaml", "config.json"):
            (tmp_path / name).write_text(content)
        assert reading_in(tmp_path) is None
    (tmp_path / "config.yaml").write_text(
        (run / "config.yaml").read_text()
    )  # a run of a release without the other file
    assert reading_in(tmp_path) is None


def test_a_case_that_the_model_does_not_read_is_refused_before_torch(folders, images, tmp_path):
    image = str(images / "smith-0.jpg")
    given = {
        "fused": [
            (["--image", image, "--report", "small heart"], "the report has no headings, and this run's model reads"),
            (["--image", image], "reads a report (indication, findings), but the case has none: give one, or --no-rep"),
            (["--report", "FINDINGS: small heart"], "reads an image, but the case has none"),
            (["--image", image, "--report", "heart", "--section", "finding"], "(did you mean 'findings'?)"),
            (["--image", image, "--image", image, "--no-report"], "was trained on one image, but 2 were given"),
            (["--image", image, "--report", "heart", "--no-report"], "together with --no-report"),
            (["--image", image, "--out", "seen.jpg"], "--out ends in .jpg: the name of the picture must end in .png"),
            (["--input", str(images), "--section", "finding"], "(did you mean 'findings'?)"),
        ],
        "image": [(["--image", image, "--report", "small heart"], "reads no report: leave the report out")],
        "text": [(["--image", image, "--no-report"], "reads nothing but the report")],
    }
    cases = [(str(folder), *case) for mode, found in given.items() for case in found for folder in folders[mode]]
    commands = [["predict", folder, *flags] for folder, flags, _ in cases]
    call = [sys.executable, "-c", COMMANDS, json.dumps(commands)]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [[2] * len(cases), False]
    for line, (_, _, message) in zip(done.stderr.splitlines(), cases, strict=True):
        assert message in line
        assert "heart" not in line
