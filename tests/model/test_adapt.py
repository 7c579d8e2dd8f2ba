"""`--model.adapt`: which parameters of the encoders are trained, and that merging adapters changes no output."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from cxr_dist.config.model import ModelConfig
from cxr_dist.config.run import Config
from cxr_dist.errors import UserError
from cxr_dist.model.adapt import merged, with_adapters
from cxr_dist.model.classifier import Classifier, build_classifier
from cxr_dist.train.memory.footprint import footprint

pytest.importorskip("peft", reason="needs the extra adapters")
LORA = ModelConfig(
    image_encoder="densenet-narrow", fusion_dim=16, fusion_heads=4, pretrained=False, adapt="lora", lora_rank=2
)


def adapted(folder: Path, config: ModelConfig = LORA) -> Classifier:
    """A network of two encoders with adapters, of which B is no longer zero."""
    torch.manual_seed(0)
    model = with_adapters(build_classifier(config, 3, folder), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return model


def test_adapters_fusion_and_head_are_trained_and_nothing_else(bert_folder: Path) -> None:
    model = adapted(bert_folder).train()
    for name, parameter in model.named_parameters():
        own = name.startswith(("summary.", "head."))
        assert parameter.requires_grad == (own or "lora_" in name), name
    layers = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert layers
    assert not any(layer.training for layer in layers)
    assert any(isinstance(m, nn.Dropout) and m.training for m in model.text.modules())  # type: ignore[union-attr]
    names = [name for name, _ in model.named_parameters() if "lora_A" in name]
    attention = ["query", "key", "value"]
    assert all(any(f"attention.self.{part}.lora_A" in name for name in names) for part in attention)
    assert any("denselayer1.conv1.lora_A" in name for name in names)
    model.set_encoders_frozen(True)
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad} == {"summary", "head"}


def test_a_network_with_new_adapters_computes_what_it_did_before(
    bert_folder: Path, make_batch: Callable[..., tuple[torch.Tensor, ...]]
) -> None:
    torch.manual_seed(0)
    plain = build_classifier(LORA, 3, bert_folder).eval()
    batch = make_batch()
    expected = plain(*batch)
    torch.testing.assert_close(with_adapters(plain, LORA).eval()(*batch), expected, rtol=0, atol=0)


def test_merging_changes_no_output_and_leaves_nothing_of_peft(
    bert_folder: Path, make_batch: Callable[..., tuple[torch.Tensor, ...]]
) -> None:
    model = adapted(bert_folder).double().eval()
    batch = make_batch()
    inputs = (batch[0].double(), *batch[1:])
    before = model(*inputs)
    plain = build_classifier(LORA, 3, bert_folder).double().eval()
    assert not torch.allclose(before, with_adapters(plain, LORA).eval()(*inputs))
    model = merged(model).eval()
    torch.testing.assert_close(model(*inputs), before, rtol=0, atol=1e-6)
    assert not any(type(layer).__module__.startswith("peft") for layer in model.modules())
    assert model.state_dict().keys() == build_classifier(LORA, 3, bert_folder).state_dict().keys()
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_an_encoder_without_a_layer_for_adapters_is_refused() -> None:
    model = build_classifier(dataclasses.replace(LORA, mode="image"), 3, None)
    model.image = nn.Sequential(nn.Conv2d(2, 2, 3, groups=2), nn.BatchNorm2d(2))
    with pytest.raises(UserError, match=r"no linear or attention layers.*use --model\.adapt head or full"):
        with_adapters(model, dataclasses.replace(LORA, mode="image"))


@pytest.mark.parametrize(("field", "value"), [("adapt", "some"), ("lora_rank", 0), ("lora_alpha", 0.0)])
def test_settings_out_of_range_are_refused(field: str, value: object) -> None:
    with pytest.raises(UserError, match=rf"model\.{field}"):
        ModelConfig(**{field: value})  # type: ignore[arg-type]


def test_the_predicted_memory_has_gradients_of_what_is_trained_only() -> None:
    predicted = {}
    for adapt in ("full", "lora", "head"):
        model = dataclasses.replace(LORA, mode="image", adapt=adapt)  # type: ignore[arg-type]
        found = footprint(Config(model=model), 3, None, "cuda")
        assert found is not None
        network = with_adapters(build_classifier(model, 3, None), model)
        network.set_encoders_frozen(adapt == "head")
        trained = sum(p.numel() * 4 for p in network.parameters() if p.requires_grad)
        assert found.gradients == trained
        predicted[adapt] = found
    assert predicted["head"].gradients < predicted["lora"].gradients < predicted["full"].gradients
    assert predicted["head"].first < predicted["lora"].first
