"""The predicted memory agrees with torch's allocator, and with the tensors that CUDA saves."""

import contextlib
import dataclasses
from itertools import accumulate

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile

from cxr_dist.config.named import named_run
from cxr_dist.model.classifier import build_classifier
from cxr_dist.model.losses import ClassificationLoss
from cxr_dist.train.memory import footprint as footprints
from cxr_dist.train.memory.footprint import footprint
from cxr_dist.train.memory.micro_batch import largest_batch

CPU = torch.device("cpu")


def configured(precision="fp32", setting="off", mode="fused", micro_batch=4):
    demo = named_run("demo")
    return dataclasses.replace(
        demo,
        precision=precision,
        data=dataclasses.replace(demo.data, micro_batch=micro_batch, image_size=64, max_tokens=64),
        model=dataclasses.replace(demo.model, mode=mode, gradient_checkpointing=setting),
    )


def allocated(config, small_bert):
    """Peak bytes, without the weights, of a real forward and backward pass, as counted by the allocator."""
    model = build_classifier(config.model, 3, small_bert).train()
    batch = largest_batch(config, config.data.micro_batch, 1)
    loss = ClassificationLoss(name="focal", gamma=2.0, class_weights=None, task="multilabel")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        images = None if batch.images is None else batch.images.float()
        with config.autocast(CPU.type):
            logits = model(images, batch.tokens, batch.attention_mask)
        targets = torch.zeros(config.data.micro_batch, 3)
        loss.sums(logits.float(), targets, targets + 1).backward()
    return max(accumulate(sizes_in_order(profiled)))


def sizes_in_order(profiled):
    """Bytes of each allocation during the profile and, negative, of each release, in order of time."""
    waiting, sizes = list(profiled.profiler.kineto_results.experimental_event_tree()), []
    while waiting:
        event = waiting.pop()
        waiting += event.children
        if hasattr(event.extra_fields, "alloc_size"):
            sizes.append((event.start_time_ns, event.extra_fields.alloc_size))
    return [size for _, size in sorted(sizes)]


@pytest.mark.parametrize(
    ("precision", "setting", "mode"),
    [
        ("fp32", "off", "fused"), ("bf16", "off", "fused"), ("fp32", "all", "fused"),
        ("bf16", "text", "text"), ("fp32", "off", "image"),
    ],
)  # fmt: skip
def test_the_prediction_agrees_with_the_allocator(small_bert, precision, setting, mode):
    config = configured(precision, setting, mode)
    predicted = footprint(config, 3, small_bert, "cpu").first
    assert predicted == pytest.approx(allocated(config, small_bert), rel=0.05)


def test_weights_and_gradients_are_counted_once_and_separately(small_bert):
    predicted = footprint(configured(), 3, small_bert, "cpu")
    model = build_classifier(configured().model, 3, small_bert)
    parameters = sum(4 * p.numel() for p in model.parameters())
    assert predicted.gradients == parameters
    assert predicted.weights == parameters + sum(b.numel() * b.element_size() for b in model.buffers())
    assert predicted.later < predicted.first < predicted.later + predicted.gradients


def test_activations_grow_with_the_micro_batch_and_shrink_with_gradient_checkpointing(small_bert):
    four, eight = (footprint(configured(micro_batch=size), 3, small_bert, "cuda").later for size in (4, 8))
    assert eight == pytest.approx(2 * four, rel=0.1)
    needs = {
        setting: footprint(configured(setting=setting), 3, small_bert, "cuda").later
        for setting in ("off", "text", "image", "all")
    }
    assert needs["all"] < min(needs["text"], needs["image"])
    assert max(needs["text"], needs["image"]) < needs["off"]


def test_studies_of_two_images_need_twice_the_activations(small_bert):
    one, two = (footprint(configured(mode="image"), 3, small_bert, "cpu", views).later for views in (1, 2))
    assert two == pytest.approx(2 * one, rel=0.1)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(64, 64), nn.LayerNorm(64)

    def forward(self, rows):
        return self.norm(nn.functional.dropout(self.linear(rows), 0.1))


@pytest.mark.parametrize("enabled", [True, False])
def test_cuda_kernels_save_the_same_bytes_as_torch_on_a_cuda_device(enabled):
    def saved(device, mode):
        sizes = {}

        def pack(tensor):
            sizes[tensor.untyped_storage()._cdata] = tensor
            return tensor

        with FakeTensorMode():
            with torch.device(device):
                layer, rows = Layer(), torch.empty(32, 64)
            torch.set_autocast_enabled(device, enabled)
            torch.set_autocast_dtype(device, torch.bfloat16)
            try:
                with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), mode:
                    out = layer(rows)
            finally:
                torch.set_autocast_enabled(device, False)
                torch.clear_autocast_cache()
        assert out.grad_fn is not None
        return sum(tensor.untyped_storage().nbytes() for tensor in sizes.values())

    assert saved("cpu", footprints._CudaKernels()) == saved("cuda", contextlib.nullcontext())
