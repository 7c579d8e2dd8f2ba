"""Model FLOPs: the count without values is that of a real pass, and padding does not count."""

import dataclasses
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cxr_dist.config.model import ModelConfig
from cxr_dist.data.batch import Batch
from cxr_dist.model.classifier import build_classifier
from cxr_dist.train.flops import ModelFlops, count_flops

SIZE, LAYERS, WIDTH, INNER = 64, 2, 32, 48
BERT = {
    "model_type": "bert",
    "vocab_size": 50,
    "num_hidden_layers": LAYERS,
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_attention_heads": 2,
}


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """build(mode, **changes) -> a small classifier with random weights."""
    folder = tmp_path_factory.mktemp("bert")
    (folder / "config.json").write_text(json.dumps(BERT))
    config = ModelConfig(image_encoder="densenet-narrow", fusion_dim=64, fusion_heads=4)
    return lambda mode, **changes: build_classifier(dataclasses.replace(config, mode=mode, **changes), 3, folder)


def batch_of(lengths, width):
    mask = torch.zeros(len(lengths), width, dtype=torch.int64)
    for row, length in zip(mask, lengths, strict=True):
        row[:length] = 1
    return Batch(
        images=torch.zeros(len(lengths), 1, SIZE, SIZE, dtype=torch.uint8),
        tokens=torch.ones_like(mask),
        attention_mask=mask,
        labels=torch.zeros(len(lengths), 1, dtype=torch.int64),
        groups=torch.zeros(len(lengths), dtype=torch.int64),
        sample_ids=torch.arange(len(lengths)),
    )


def counted_by_torch(model, length, *, backward):
    """Operations that torch counts in a real pass of one sample, with attention as matrix products."""
    tokens = torch.ones(1, length, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        logits = model(torch.randn(1, 1, SIZE, SIZE), tokens, tokens)
        if backward:
            logits.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("length", [1, 24, 100])
@pytest.mark.parametrize(
    ("mode", "changes"),
    [
        ("image", {}),
        ("text", {}),
        ("fused", {}),
        ("fused", {"fusion": "pooled"}),
        ("fused", {"gradient_checkpointing": "text"}),
    ],
)
def test_the_count_for_a_report_of_any_length_is_that_of_a_real_pass(build, mode, changes, length):
    model = build(mode, **changes).eval()
    flops = count_flops(model, SIZE)
    forward = flops.image + flops.report[0] * length + flops.report[1] * length**2
    forward += flops.rest[0] + flops.rest[1] * length
    assert forward == pytest.approx(counted_by_torch(model, length, backward=False), rel=1e-12)


def test_the_text_encoder_has_the_published_count(build):
    per_token, squared = count_flops(build("text"), SIZE).report
    weights = LAYERS * (4 * WIDTH**2 + 2 * WIDTH * INNER)
    assert per_token == 2 * weights
    assert squared == LAYERS * 2 * 2 * WIDTH  # queries times keys, and probabilities times values


def test_forward_and_backward_are_three_forward_passes(build):
    model = build("fused").eval()
    done = counted_by_torch(model, 24, backward=True)
    claimed = count_flops(model, SIZE).of(batch_of([24], 24), frozen=False)
    # The image and the embedded tokens need no gradient, so that the first layers need one product less.
    assert 0.9 * claimed < done <= claimed


def test_counting_does_not_change_the_model(build):
    model = build("fused").train()
    model.set_encoders_frozen(True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    torch.manual_seed(0)
    count_flops(model, SIZE)
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(0)))
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_counting_compiles_nothing(build):
    def refuse(graph, inputs):
        pytest.fail("a graph was compiled")

    plain, compiled = build("fused"), build("fused")
    compiled.compile(backend=refuse)
    assert count_flops(compiled, SIZE) == count_flops(plain, SIZE) is not None


def test_an_encoder_that_needs_values_has_no_count(build):
    model = build("text")
    model.text.register_forward_pre_hook(lambda module, inputs: inputs[0].max().item() and None)
    assert count_flops(model, SIZE) is None
    assert model.training


FLOPS = ModelFlops(image=1000.0, report=(10.0, 1.0), rest=(100.0, 5.0))


@given(lengths=st.lists(st.integers(0, 40), min_size=1, max_size=6), padding=st.integers(0, 20))
def test_padding_does_not_count_and_samples_add_up(lengths, padding):
    whole = FLOPS.of(batch_of(lengths, 40 + padding), frozen=False)
    assert whole == sum(FLOPS.of(batch_of([length], 40), frozen=False) for length in lengths)
    encoders = sum(1000 + 10 * length + length**2 for length in lengths)
    assert whole - FLOPS.of(batch_of(lengths, 40 + padding), frozen=True) == 2 * encoders
