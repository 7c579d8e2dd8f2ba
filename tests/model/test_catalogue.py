"""`cxr-dist fetch NAME` for every layout of published weights, on the local stand-in hub, and `fetch --list`."""

import dataclasses
import hashlib
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from stand_in_hub import NAME, REVISION, Hub, as_bytes
from torch import nn
from torchxrayvision.models import DenseNet
from transformers import BertConfig, BertForMaskedLM, Dinov2Config, Dinov2Model

from cxr_dist.errors import UserError
from cxr_dist.model.catalogue import CATALOGUE, Layout, Published, published
from cxr_dist.model.classifier import load_text_encoder
from cxr_dist.model.fetch import fetch_published
from cxr_dist.model.text_encoder import TextEncoder
from cxr_dist.model.weights import verify_component
from cxr_dist.model.whole_model import whole_model_tensors


def entry(layout: Layout, **changes: object) -> Published:
    """An entry for what the stand-in serves."""
    made = Published(name=NAME, what="made", layout=layout, source=NAME, licence="MIT", megabytes=1, use="")
    return dataclasses.replace(made, **changes)


def test_the_list_has_a_licence_a_size_a_revision_and_a_hash_of_each(cxr_dist) -> None:
    status, out, _ = cxr_dist("fetch", "--list")
    assert status == 0
    for known in CATALOGUE:
        block = next(block for block in out.split("\n\n") if block.startswith(known.name + "\n"))
        assert re.search(r", [\d.]+ MB\n  licence \S.*; revision \S.*; sha256 \S.*\n  --model\.", block), block
    assert {"densenet121", "microsoft/rad-dino", "emilyalsentzer/Bio_ClinicalBERT"} <= {e.name for e in CATALOGUE}
    assert "revision not checked; sha256 not checked" in out


def test_an_unknown_name_is_refused_with_the_nearest_one(cxr_dist, tmp_path) -> None:
    status, _, err = cxr_dist("fetch", "microsoft/raddino", "--out", tmp_path)
    assert status == 2
    assert "did you mean 'microsoft/rad-dino'?" in err
    assert published("microsoft/rad-dino").layout == "transformers"


def test_a_backbone_is_fetched_and_its_files_are_pinned(hub: Hub, tmp_path: Path) -> None:
    config = Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
    Dinov2Model(config).save_pretrained(tmp_path / "made")
    names = ("config.json", "model.safetensors")
    hub.files = {name: (tmp_path / "made" / name).read_bytes() for name in names}
    hub.files["preprocessor_config.json"] = b"{}"
    sums = fetch_published(tmp_path / "bundle", entry("transformers"), hub.url)
    assert sums == {name: hashlib.sha256(content).hexdigest() for name, content in hub.files.items()}
    record = json.loads((tmp_path / "bundle" / NAME / "bundle.json").read_text())
    assert record == {"source": {"repository": NAME, "revision": REVISION}, "sha256": sums}
    Dinov2Model.from_pretrained(tmp_path / "bundle" / NAME, local_files_only=True)


def test_open_clips_layout_becomes_safetensors(hub: Hub, tmp_path: Path) -> None:
    tensors = {"visual.trunk.cls_token": torch.randn(1, 1, 4), "logit_scale": torch.tensor(2.0)}
    hub.files = {"open_clip_config.json": b"{}", "open_clip_pytorch_model.bin": as_bytes(tensors)}
    assert "open_clip_model.safetensors" in fetch_published(tmp_path, entry("open_clip"), hub.url)
    loaded = load_file(tmp_path / NAME / "open_clip_model.safetensors")
    assert all(loaded[name].equal(tensor) for name, tensor in tensors.items())
    verify_component(tmp_path / NAME)


def test_cxr_berts_own_class_becomes_a_bert_that_opens_without_its_code(hub: Hub, tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=30, **sizes)
    weights = BertForMaskedLM(config).state_dict() | {"cls_projection_head.dense.weight": torch.ones(4, 16)}
    code = {"model_type": "cxr-bert", "auto_map": {"AutoModel": "modeling_cxrbert.CXRBertModel"}}
    tokenizer = {"tokenizer_class": "CXRBertTokenizer", "auto_map": {"AutoTokenizer": ["x.CXRBertTokenizer", None]}}
    hub.files = {
        "config.json": json.dumps(config.to_dict() | code).encode(),
        "tokenizer_config.json": json.dumps(tokenizer).encode(),
        "vocab.txt": hub.files["vocab.txt"],
        "pytorch_model.bin": as_bytes(weights),
        "modeling_cxrbert.py": b"raise SystemExit",
    }
    fetch_published(tmp_path, entry("cxr_bert"), hub.url)
    folder = tmp_path / NAME
    assert not (folder / "modeling_cxrbert.py").exists()
    encoder = TextEncoder(folder)
    load_text_encoder(encoder, folder)
    embedding = encoder.get_input_embeddings().weight
    assert embedding.equal(weights["bert.embeddings.word_embeddings.weight"])  # type: ignore[arg-type]
    assert json.loads((folder / "tokenizer_config.json").read_text()) == {"tokenizer_class": "BertTokenizer"}


def test_a_pickled_network_becomes_tensors_without_its_classes(hub: Hub, tmp_path: Path) -> None:
    network = DenseNet(num_classes=3, growth_rate=4, block_config=(1, 1), num_init_features=4)
    torch.save(network, tmp_path / "model.pt")
    hub.files = {"config.json": b"{}", "model.pt": (tmp_path / "model.pt").read_bytes()}
    fetch_published(tmp_path / "bundle", entry("whole_model"), hub.url)
    loaded, expected = load_file(tmp_path / "bundle" / NAME / "model.safetensors"), network.state_dict()
    assert loaded.keys() == expected.keys()
    assert all(loaded[name].equal(tensor) for name, tensor in expected.items())


class Runs(nn.Module):
    """A network with a program in its pickle."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("the program ran",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (as_bytes(nn.Sequential(Runs())), r"holds more than a network \(\w+\.print\).* was not loaded"),
        (b"PK\x03\x04 cut", "is not a network that torch.save wrote"),
        (as_bytes({"epoch": 3}), "holds no network"),
    ],
)
def test_a_pickle_with_anything_else_is_refused(tmp_path: Path, capsys, content: bytes, words: str) -> None:
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(UserError, match=words):
        whole_model_tensors(tmp_path / "model.pt")
    assert "the program ran" not in capsys.readouterr().out


def test_other_weights_than_the_catalogue_knows_are_refused(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not the file of the catalogue: its sha256 is [0-9a-f]{16}…, and abcabc"):
        fetch_published(tmp_path, entry("transformers", sha256="abcabc" + "0" * 58), hub.url)
    assert not (tmp_path / NAME).exists()
    right = hashlib.sha256(hub.files["pytorch_model.bin"]).hexdigest()
    fetch_published(tmp_path, entry("transformers", sha256=right, revision=REVISION), hub.url)
