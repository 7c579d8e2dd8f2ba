"""The example of an image encoder, copied to a folder outside the repository and used by every command."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "own_encoder" / "encoder.py"
SMALL = (
    "--data.global-batch 8 --data.micro-batch 4 --data.image-size 48 --data.max-tokens 16 --train.max-steps 2 "
    "--train.log-every 1 --train.save-every 1 --model.image-encoder encoder.py:FourConvolutions --out run"
)


def test_a_run_with_the_example_encoder_resumes_evaluates_predicts_and_refuses_a_changed_file(
    tmp_path, tiny_shards, at_site
):
    """Takes about a minute, because eight processes start and import torch."""
    shutil.copy(EXAMPLE, tmp_path)
    train = ("train", "demo", "--data.shards", tiny_shards, *SMALL.split())
    status, output = at_site(*train, "--train.max-minutes", "0.0001")
    assert status == 75, output
    status, output = at_site(*train)
    assert status == 0, output
    assert "resumed after step 1 of 2" in output
    record = json.loads((tmp_path / "run" / "parts.json").read_text())
    assert [part["name"] for part in record.pop("model.image_encoder")] == ["encoder.py:FourConvolutions"]
    assert record == {}
    status, output = at_site("evaluate", "run", "--mc-samples", "2", "--mc-scope", "all")
    assert status == 0, output
    image = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    (tmp_path / "image.png").write_bytes(bytes(cv2.imencode(".png", image)[1]))
    predict = ("predict", "run", "--image", "image.png", "--report", "FINDINGS: No effusion.", "--out", "one.png")
    status, output = at_site(*predict)
    assert status == 0, output
    assert np.shape(json.loads((tmp_path / "one.json").read_text())["heat_map"]) == (3, 3)
    (tmp_path / "encoder.py").write_text(EXAMPLE.read_text() + "\n# another file\n")
    for command in (train, ("evaluate", "run"), predict):
        status, output = at_site(*command)
        assert status == 2
        assert "model.image_encoder: encoder.py:FourConvolutions is defined by another file than" in output
        assert "put that file back" in output
