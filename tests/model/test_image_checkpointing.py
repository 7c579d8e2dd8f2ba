"""Recomputing activations in one or both encoders changes no loss, gradient or running statistic."""

import pytest
import torch

from cxr_dist.model.image_encoder import ImageEncoder
from cxr_dist.train.batchnorm import LaneStatistics

SETTINGS = ("text", "image", "all")


def trained(build, make_batch, setting):
    """Losses, gradients and buffers after a step of two micro-batches in float64, with dropout in all parts."""
    model = build(gradient_checkpointing=setting, image_dropout=0.2).double().train()
    statistics, losses = LaneStatistics(model, 2), []
    statistics.start()
    for lane in range(2):
        torch.manual_seed(lane)
        images, tokens, mask = make_batch(3 + lane, side=32)
        loss = model(images.double(), tokens, mask).square().sum()
        loss.backward()
        statistics.add()
        losses.append(loss.detach())
    statistics.finish(keep=torch.tensor(True))
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return torch.stack(losses), gradients, dict(model.named_buffers())


@pytest.fixture(scope="module")
def plain(build, make_batch):
    return trained(build, make_batch, "off")


@pytest.mark.parametrize("setting", SETTINGS)
def test_loss_gradients_and_statistics_equal_those_without_recomputation(plain, build, make_batch, setting):
    losses, gradients, buffers = trained(build, make_batch, setting)
    torch.testing.assert_close(losses, plain[0], rtol=1e-12, atol=0)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, plain[1][name], rtol=1e-12, atol=1e-12, msg=name)
    for name, buffer in buffers.items():  # exactly equal, so each batch is counted once
        assert torch.equal(buffer, plain[2][name]), name


def saved_bytes(model, batch):
    """Bytes that the forward pass keeps for the backward pass."""
    seen = {}

    def pack(tensor):
        seen[tensor.untyped_storage()._cdata] = tensor  # the reference prevents the storage from being reused
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(*batch).sum()
    assert loss.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in seen.values())


def test_recomputation_in_each_encoder_saves_memory(build, make_batch):
    batch, sizes = make_batch(4), {}
    for setting in ("off", "text", "image", "all"):
        sizes[setting] = saved_bytes(build(gradient_checkpointing=setting).train(), batch)
    assert sizes["all"] < min(sizes["text"], sizes["image"])
    assert max(sizes["text"], sizes["image"]) < sizes["off"]


def test_nothing_is_recomputed_in_eval_mode():
    encoder, images = ImageEncoder("densenet-narrow", gradient_checkpointing=True), torch.randn(2, 1, 32, 32)
    calls = []
    encoder.features.denseblock1.denselayer1.norm1.register_forward_hook(lambda *_: calls.append(1))
    for mode, expected in (("train", 2), ("eval", 1)):
        calls.clear()
        tokens, _ = getattr(encoder, mode)()(images)
        tokens.sum().backward()
        assert len(calls) == expected
