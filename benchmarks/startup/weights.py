"""A bundle of full-size random weights, for measuring how long reading weights takes.

The layout is that of `cxr-dist fetch` (model/weights.py), including the sha256s.
"""

import json
from pathlib import Path

import torch
import torchvision
from safetensors.torch import save_file
from transformers import BertConfig, BertModel

from benchmarks.full_size import BERT_BASE
from cxr_dist.files import sha256_of
from cxr_dist.model.weights import IMAGE_COMPONENT, TEXT_COMPONENT

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def write_bundle(bundle: Path) -> None:
    """Write random weights of DenseNet-121 and BERT-base under the names of the pretrained ones."""
    torch.manual_seed(0)
    image, text = bundle / IMAGE_COMPONENT, bundle / TEXT_COMPONENT
    for folder in (image, text):
        folder.mkdir(parents=True)
    save_file(torchvision.models.densenet121().state_dict(), image / "model.safetensors")
    model = BertModel(BertConfig(**BERT_BASE))
    model.save_pretrained(text)
    words = [*_SPECIAL, *(f"word{number}" for number in range(model.config.vocab_size - len(_SPECIAL)))]
    (text / "vocab.txt").write_text("\n".join(words) + "\n")
    for folder in (image, text):
        sums = {path.name: sha256_of(path) for path in sorted(folder.iterdir())}
        (folder / "bundle.json").write_text(json.dumps({"sha256": sums}))
