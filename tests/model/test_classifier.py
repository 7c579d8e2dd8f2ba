"""The whole network: its modes, freezing, Monte-Carlo dropout, padding, precision, and missing weights."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import densenet121

from cxr_dist.config.model import ModelConfig
from cxr_dist.errors import UserError
from cxr_dist.model.classifier import Classifier, build_classifier, load_pretrained
from cxr_dist.model.image_encoder import grey_weights
from cxr_dist.model.inputs import Inputs

Build = Callable[..., Classifier]
MakeBatch = Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
MODES = [
    {"mode": "image"},
    {"mode": "text"},
    {"mode": "fused", "fusion": "tokens"},
    {"mode": "fused", "fusion": "pooled"},
]


@pytest.mark.parametrize("fields", MODES)
def test_every_parameter_gets_a_gradient(build: Build, make_batch: MakeBatch, fields: dict[str, str]) -> None:
    model = build(**fields).train()
    model(*make_batch()).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("fields", MODES)
def test_a_mode_reads_only_its_inputs(build: Build, make_batch: MakeBatch, fields: dict[str, str]) -> None:
    model, (images, tokens, mask) = build(**fields).eval(), make_batch()
    logits = model(images, tokens, mask)
    assert logits.shape == (4, 3)
    if fields["mode"] == "image":
        torch.testing.assert_close(model(images, None, None), logits, rtol=0, atol=0)
    if fields["mode"] == "text":
        torch.testing.assert_close(model(None, tokens, mask), logits, rtol=0, atol=0)


def test_the_same_seed_builds_the_same_weights(build: Build) -> None:
    one, other = build().state_dict(), build().state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("fields", MODES[1:])
def test_more_padding_does_not_change_logits(build: Build, make_batch: MakeBatch, fields: dict[str, str]) -> None:
    model, (images, tokens, mask) = build(**fields).double().eval(), make_batch(length=32)
    longer = [torch.nn.functional.pad(t, (0, 16)) for t in (tokens, mask)]
    with torch.no_grad():
        expected = model(images.double(), tokens, mask)
        torch.testing.assert_close(model(images.double(), *longer), expected, rtol=0, atol=1e-12)


def test_float64_and_bfloat16_autocast_run_forward_and_backward(build: Build, make_batch: MakeBatch) -> None:
    images, tokens, mask = make_batch()
    double = build().double()
    logits = double(images.double(), tokens, mask)
    logits.sum().backward()
    assert logits.dtype == torch.float64
    half = build()
    with torch.autocast("cpu", torch.bfloat16):
        logits = half(images, tokens, mask)
    logits.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in half.parameters())


def test_bfloat16_autocast_agrees_with_float32(build: Build, make_batch: MakeBatch) -> None:
    model, inputs = build().eval(), make_batch(8)
    with torch.no_grad():
        expected = model(*inputs)
        with torch.autocast("cpu", torch.bfloat16):
            half = model(*inputs).float()
    torch.testing.assert_close(half, expected, rtol=0, atol=0.02)


def test_frozen_encoders_do_not_change_until_they_are_unfrozen(build: Build, make_batch: MakeBatch) -> None:
    model, inputs = build(), make_batch()
    model.set_encoders_frozen(True)
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        model(*inputs).square().sum().backward()
        optimizer.step()
    after = model.state_dict()
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"summary", "head"}
    model.set_encoders_frozen(False)
    model(*inputs).square().sum().backward()
    optimizer.step()
    unfrozen = model.state_dict()
    moved = {name.split(".")[0] for name in after if not torch.equal(before[name], unfrozen[name])}
    assert moved == {"image", "text", "summary", "head"}


def test_frozen_encoders_have_no_dropout_and_keep_no_graph(build: Build, make_batch: MakeBatch) -> None:
    model, inputs = build().train(), make_batch()
    model.set_encoders_frozen(True)
    assert not model.image.training
    assert not model.text.training
    assert model.head.training
    first, second = model.encode(Inputs(*inputs)), model.encode(Inputs(*inputs))
    assert torch.equal(first.text_tokens, second.text_tokens)
    assert not first.image_tokens.requires_grad
    model.set_encoders_frozen(False)
    assert model.image.training
    assert model.text.training
    assert model.encode(Inputs(*inputs)).image_tokens.requires_grad


@pytest.fixture
def bundle(tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """A bundle like that of `fetch`, in which DenseNet-121 has random weights."""
    torch.manual_seed(3)
    rgb = densenet121(weights=None).state_dict()
    folder = tmp_path / "densenet121"
    folder.mkdir()
    save_file(rgb, folder / "model.safetensors")
    (folder / "bundle.json").write_text('{"source": {}, "sha256": {}}')
    return tmp_path, rgb


def test_pretrained_image_weights_are_loaded(bundle: tuple[Path, dict[str, torch.Tensor]]) -> None:
    folder, rgb = bundle
    config = ModelConfig(mode="image", weights=str(folder))
    model = build_classifier(config, 2, None)
    load_pretrained(model, config, None)
    expected, loaded = grey_weights(rgb), model.image.state_dict()
    assert expected.keys() == loaded.keys()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


def test_the_error_for_missing_image_weights_says_how_to_get_them(tmp_path: Path) -> None:
    config = ModelConfig(mode="image", weights=str(tmp_path))
    with pytest.raises(UserError, match=r"cxr-dist fetch.*--model\.weights DIR.*--model\.pretrained false"):
        load_pretrained(build_classifier(config, 2, None), config, None)


def test_encoders_without_published_weights_are_not_changed(build: Build, tmp_path: Path) -> None:
    config = ModelConfig(image_encoder="densenet-narrow", text_encoder="tiny", weights=str(tmp_path))
    model = build()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    load_pretrained(model, config, None)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
