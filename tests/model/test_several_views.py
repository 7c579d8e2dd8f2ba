"""Samples of several images: order and missing images do not matter, and one image gives the single-image result."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from cxr_dist.model.classifier import Classifier
from cxr_dist.model.inputs import Inputs
from cxr_dist.model.monte_carlo import McDropout, mc_logits

Build = Callable[..., Classifier]
MakeBatch = Callable[..., tuple[Tensor, Tensor, Tensor]]
SEEING = [{"mode": "image"}, {"mode": "fused", "fusion": "tokens"}, {"mode": "fused", "fusion": "pooled"}]
ROWS = torch.tensor([[0, 1], [2, -1], [3, 4], [5, -1]])


def inputs_of(make_batch: MakeBatch, num_images: int = 6, samples: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Images float64 [num_images, 1, 64, 64], and tokens and mask of `samples` reports."""
    images, tokens, mask = make_batch(num_images)
    return images.double(), tokens[:samples], mask[:samples]


def logits(model: Classifier, inputs: tuple[Tensor, Tensor, Tensor], rows: Tensor | None) -> Tensor:
    with torch.no_grad():
        return model(*Inputs(*inputs, view_rows=rows))


@pytest.mark.parametrize("fields", SEEING)
def test_with_one_image_each_the_result_is_that_of_the_single_image_model(
    build: Build, make_batch: MakeBatch, fields
) -> None:
    model, inputs = build(**fields).double().eval(), inputs_of(make_batch, num_images=4)
    alone = logits(model, inputs, None)
    for views in (1, 2, 3):
        rows = torch.full((4, views), -1)
        rows[:, 0] = torch.arange(4)
        torch.testing.assert_close(logits(model, inputs, rows), alone, rtol=0, atol=1e-13)


@pytest.mark.parametrize("fields", SEEING)
def test_every_image_matters_and_their_order_does_not(build: Build, make_batch: MakeBatch, fields) -> None:
    model, inputs = build(**fields).double().eval(), inputs_of(make_batch)
    expected = logits(model, inputs, ROWS)
    swapped = torch.tensor([[1, 0], [2, -1], [4, 3], [5, -1]])
    torch.testing.assert_close(logits(model, inputs, swapped), expected, rtol=0, atol=1e-12)
    for image, sample in enumerate([0, 0, 1, 2, 2, 3]):
        changed = inputs[0].clone()
        changed[image] += 1.0
        moved = (logits(model, (changed, *inputs[1:]), ROWS) - expected).abs().amax(1) > 1e-9
        assert moved.tolist() == [number == sample for number in range(4)]


@pytest.mark.parametrize("fields", SEEING)
def test_missing_images_have_no_effect(build: Build, make_batch: MakeBatch, fields) -> None:
    """Neither additional columns of the table nor images that belong to no sample change the result."""
    model, inputs = build(**fields).double().eval(), inputs_of(make_batch)
    expected = logits(model, inputs, ROWS)
    wider = torch.nn.functional.pad(ROWS, (0, 2), value=-1)
    torch.testing.assert_close(logits(model, inputs, wider), expected, rtol=0, atol=1e-12)
    more = torch.cat([torch.full_like(inputs[0][:1], torch.nan), inputs[0]])
    torch.testing.assert_close(
        logits(model, (more, *inputs[1:]), torch.where(ROWS < 0, -1, ROWS + 1)), expected, rtol=0, atol=1e-12
    )


def test_batchnorm_uses_existing_images_only(build: Build, make_batch: MakeBatch) -> None:
    one, other = (build(mode="image").double().train() for _ in range(2))
    images, *text = inputs_of(make_batch)
    one(*Inputs(images, *text, view_rows=ROWS))
    other(images, None, None)  # six samples with one image each
    for name, buffer in one.named_buffers():
        assert torch.equal(buffer, other.get_buffer(name)), name


def test_no_report_token_attends_to_a_missing_image(build: Build, make_batch: MakeBatch) -> None:
    model, inputs = build().double().eval(), inputs_of(make_batch)
    with torch.no_grad():
        features = model.encode(Inputs(*inputs, view_rows=ROWS))
        weights = model.attention_weights(features)
    assert weights is not None
    assert weights.shape == (4, 16, 8)  # 2 × 2 tokens of two images
    assert (weights[[1, 3], :, 4:] == 0).all()
    assert (weights[[0, 2]] > 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(4, 16).double())


def test_gradients_reach_the_encoder_from_every_image(build: Build, make_batch: MakeBatch) -> None:
    model, (images, *text) = build().double().train(), inputs_of(make_batch)
    images.requires_grad_()
    model(*Inputs(images, *text, view_rows=ROWS)).square().sum().backward()
    assert images.grad is not None
    assert (images.grad.abs().amax((1, 2, 3)) > 0).all()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("scope", ["head", "all"])
def test_a_studys_passes_are_the_same_in_any_batch(build: Build, make_batch: MakeBatch, scope: Any) -> None:
    model = build(image_dropout=0.2).double().eval()
    images, tokens, mask = inputs_of(make_batch)
    whole = Inputs(images=images, tokens=tokens, attention_mask=mask, view_rows=ROWS)
    ids, mc = torch.tensor([7, 3, 99, 0]), McDropout(passes=5, scope=scope)

    def passes(inputs: Inputs, ids: Tensor) -> Tensor:
        with torch.no_grad():
            features = model.encode(inputs)
        return mc_logits(model, inputs, features, ids, mc, seed=5)

    expected = passes(whole, ids)
    assert expected.shape == (5, 4, 3)
    assert expected.std(0).min() > 0
    for own_images, sample, rows in (([3, 4], 2, [[0, 1]]), ([5], 3, [[0, -1]])):
        alone = Inputs(
            images=images[own_images],
            tokens=tokens[[sample]],
            attention_mask=mask[[sample]],
            view_rows=torch.tensor(rows),
        )
        torch.testing.assert_close(passes(alone, ids[[sample]])[:, 0], expected[:, sample], rtol=0, atol=1e-9)


def test_equal_images_of_a_study_have_different_masks(build: Build, make_batch: MakeBatch) -> None:
    """Otherwise the standard deviation over passes would not decrease with the number of images."""
    model = build(mode="image", image_dropout=0.3, head_dropout=(0.0, 0.0)).double().eval()
    images, _, _ = inputs_of(make_batch, num_images=1)
    twice = Inputs(torch.cat([images, images]), view_rows=torch.tensor([[0, 1]]))
    once = twice._replace(view_rows=torch.tensor([[0, -1]]))
    mc, ids, spread = McDropout(passes=40, scope="all"), torch.tensor([4]), []
    for inputs in (once, twice):
        with torch.no_grad():
            features = model.encode(inputs)
        spread.append(mc_logits(model, inputs, features, ids, mc, seed=1).std(0).mean())
    assert spread[1] < 0.9 * spread[0]
