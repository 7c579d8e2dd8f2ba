"""A model with an image encoder from a folder, or of timm, is opened and exported without that folder."""

import json
import shutil

import numpy as np
import pytest
from transformers import AutoModel, Dinov2Config

import cxr_dist
from cxr_dist.config.file import load_config
from cxr_dist.inference.export import export
from cxr_dist.run.meaning import meaning_of

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2}


@pytest.fixture
def one_case(cases_of):
    return next(iter(cases_of("multilabel").values()))[0]


def test_a_backbone_from_a_folder_is_used_without_it(tmp_path, a_run, one_case):
    """Neither the run nor its export needs it; the export's ONNX graph is compared with the network."""
    given = tmp_path / "tiny-dino"
    AutoModel.from_config(Dinov2Config(**SMALL, image_size=56, patch_size=8)).save_pretrained(given)
    (given / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.53], "image_std": [0.26]}))
    run = a_run(tmp_path / "run", "image", "multilabel", f"hf:{given}")
    shutil.rmtree(given)
    expected = cxr_dist.load(run).predict(one_case, heat_map=True)
    assert np.shape(expected["heat_map"]) == (4, 4)
    export(run, tmp_path / "model", with_onnx=True)
    plain = json.loads((tmp_path / "model" / "config.json").read_text())
    assert plain["architecture"]["image_encoder"] == "hf:tiny-dino"
    assert (plain["image"]["mean"], plain["image"]["deviation"]) == (0.53, 0.26)
    assert str(tmp_path) not in "".join(
        path.read_text(errors="replace") for path in (tmp_path / "model").rglob("*.json")
    )
    shutil.move(tmp_path / "model", tmp_path / "elsewhere")
    answer = cxr_dist.load(tmp_path / "elsewhere").predict(one_case, heat_map=True)
    assert answer["probability"] == expected["probability"]
    recorded = meaning_of(run, load_config(run / "config.yaml"))["files"]  # what each checkpoint of a run records
    assert {"image_encoder/config.json", "image_encoder/preprocessor_config.json"} <= recorded.keys()


def test_a_network_of_timm_is_exported(tmp_path, a_run, one_case):
    pytest.importorskip("timm", reason="needs timm: pip install 'cxr_dist[encoders]'")
    run = a_run(tmp_path / "run", "image", "multilabel", "timm:test_vit")
    expected = cxr_dist.load(run).predict(one_case, heat_map=True)
    assert np.shape(expected["heat_map"]) == (2, 2)
    export(run, tmp_path / "model", with_onnx=False)
    assert cxr_dist.load(tmp_path / "model").predict(one_case)["probability"] == expected["probability"]
