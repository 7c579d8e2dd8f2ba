"""The export of a model with a user-defined image encoder needs the encoder's file, and runs no other code."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import make_run_folder

import cxr_dist
from cxr_dist.errors import UserError
from cxr_dist.inference.export import export
from cxr_dist.inference.given_case import Case
from cxr_dist.inference.opened import open_run

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "own_encoder" / "encoder.py"


@pytest.fixture
def site(source, tmp_path, monkeypatch):
    """A working directory with encoder.py, a run, its export with a graph, and an image."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(EXAMPLE, tmp_path)
    name = f"{tmp_path}/encoder.py:FourConvolutions"
    make_run_folder(source, tmp_path / "run", "fused", "multiclass", name)
    export(Path("run"), Path("exported"), with_onnx=True)
    shutil.copy(next((source / "images").iterdir()), tmp_path / "image.png")
    return tmp_path


def test_the_export_predicts_as_the_run_and_the_graph_do(site):
    run, _ = open_run(Path("run"), torch.device("cpu"))
    model = cxr_dist.load("exported")
    case = {"image": "image.png", "report": "cough for 3 days"}
    assert model.predict(**case) == run.predict(**case)
    batch = model.batch([Case.of([Path(case["image"])], case["report"])])
    session = onnxruntime.InferenceSession("exported/model.onnx", providers=["CPUExecutionProvider"])
    inputs = {"images": batch.images, "input_ids": batch.tokens, "attention_mask": batch.attention_mask}
    probabilities = session.run(["probabilities"], {name: tensor.numpy() for name, tensor in inputs.items()})[0][0]
    np.testing.assert_allclose(probabilities, list(model.predict(**case)["probability"].values()), atol=1e-5)
    plain = json.loads((site / "exported" / "config.json").read_text())
    name = "encoder.py:FourConvolutions"
    sha256 = hashlib.sha256(EXAMPLE.read_bytes()).hexdigest()
    assert plain["parts"] == {"model.image_encoder": [{"name": name, "sha256": sha256}]}
    assert plain["architecture"]["image_encoder"] == name
    assert (plain["image"]["mean"], plain["image"]["deviation"]) == (0.5, 0.25)
    assert not [p for p in (site / "exported").rglob("*") if p.is_file() and str(site).encode() in p.read_bytes()]


def test_an_export_whose_encoder_file_is_missing_or_changed_is_refused(site, monkeypatch):
    elsewhere = site / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    with pytest.raises(UserError, match=r"has a user-defined encoder: .*there is no file encoder\.py"):
        cxr_dist.load(site / "exported")
    (elsewhere / "encoder.py").write_text(EXAMPLE.read_text() + "\n# another\n")
    with pytest.raises(UserError, match=r"model\.image_encoder: encoder\.py:Four.* another file .* put that file back"):
        cxr_dist.load(site / "exported")


def test_no_code_is_run_from_an_exported_folder(site, monkeypatch):
    (site / "exported" / "encoder.py").write_text("raise AssertionError('was run')")
    monkeypatch.chdir(site / "exported")
    with pytest.raises(UserError, match=r"encoder\.py is in the exported folder, from which no code is run"):
        cxr_dist.load(".")


def test_an_export_without_user_defined_encoders_lists_no_parts(exported):
    assert "parts" not in json.loads((exported / "config.json").read_text())
