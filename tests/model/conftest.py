"""Small encoders for the tests: a folder with a two-layer BERT, and a model that trains in milliseconds."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from stand_in_hub import Hub, as_bytes, old_names, serving
from torchvision.models import DenseNet
from transformers import BertConfig, BertForMaskedLM

from cxr_dist.config.model import ModelConfig
from cxr_dist.model.classifier import Classifier, build_classifier

BERT = {
    "model_type": "bert",
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the config.json of a BERT with two layers, width 32 and at most 64 tokens."""
    folder = tmp_path_factory.mktemp("bert")
    (folder / "config.json").write_text(json.dumps(BERT))
    return folder


@pytest.fixture(scope="session")
def build(bert_folder: Path) -> Callable[..., Classifier]:
    """`build(mode="fused", ...)`: a narrow classifier for 3 classes with the same weights every time."""

    def make(**fields: Any) -> Classifier:
        narrow = {
            "image_encoder": "densenet-narrow",
            "fusion_dim": 16,
            "fusion_heads": 4,
            "pretrained": False,
        }
        torch.manual_seed(0)
        return build_classifier(ModelConfig(**(narrow | fields)), 3, bert_folder)

    return make


Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@pytest.fixture(scope="session")
def make_batch() -> Callable[..., Batch]:
    """`make_batch(size)`: normalised images, token ids and a mask with rows of different lengths."""

    def make(size: int = 4, length: int = 16, side: int = 64) -> Batch:
        generator = torch.Generator().manual_seed(size)
        images = torch.randn(size, 1, side, side, generator=generator)
        tokens = torch.randint(5, 60, (size, length), generator=generator)
        lengths = torch.randint(2, length + 1, (size, 1), generator=generator)
        mask = (torch.arange(length) < lengths).long()
        return images, tokens * mask, mask

    return make


@pytest.fixture(scope="session")
def published() -> tuple[dict[str, bytes], bytes]:
    """The files of a small masked language model (with .bin weights only), and a DenseNet with old tensor names."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=30, **sizes)
    files = {
        "config.json": config.to_json_string().encode(),
        "vocab.txt": b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n",
        "pytorch_model.bin": as_bytes(BertForMaskedLM(config).state_dict()),
        "README.md": b"not needed",
    }
    narrow = DenseNet(growth_rate=8, block_config=(1, 1, 1, 1), num_init_features=8)
    return files, as_bytes(old_names(narrow.state_dict()))


@pytest.fixture
def hub(published: tuple[dict[str, bytes], bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A running stand-in for the hub. The client may connect to it, and its waiting times are shortened."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(time, "sleep", lambda seconds, sleep=time.sleep: sleep(min(seconds, 0.02)))
    files, densenet = published
    with serving(Hub(files=dict(files), densenet=densenet)) as running:
        yield running
