"""Grad-CAM agrees with the formula of the paper, and with occluding one part of the image after the other."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from cxr_dist.config.model import ModelConfig
from cxr_dist.evaluate.explain import attention_map, grad_cam
from cxr_dist.model.classifier import Classifier, build_classifier
from cxr_dist.model.inputs import Inputs

NARROW = ModelConfig(mode="image", image_encoder="densenet-narrow", pretrained=False)
CELL, CELLS = 32, 4  # an image has 4 × 4 cells of 32 pixels, one per image token


def test_the_heat_map_follows_the_formula_of_the_paper() -> None:
    """Selvaraju et al. 2017, equations 1 and 2: α_k = 1/Z Σ_ij ∂y/∂A_k,ij, and ReLU(Σ_k α_k A_k)."""
    torch.manual_seed(3)
    model = build_classifier(NARROW, 3, None).eval()
    image = torch.randn(1, 1, 96, 160)
    assert model.image is not None
    maps = functional.relu(model.image.features(image)).detach().requires_grad_()
    score = model.head(maps.mean(dim=(2, 3)))[0, 2]
    (gradient,) = torch.autograd.grad(score, maps)
    _, channels, height, width = maps.shape
    heat = np.zeros((height, width))
    for k in range(channels):
        alpha = sum(float(gradient[0, k, i, j]) for i in range(height) for j in range(width)) / (height * width)
        heat += alpha * maps[0, k].detach().numpy()
    heat = np.maximum(heat, 0)
    assert heat.max() > 0
    result = grad_cam(model, Inputs(image), 2)
    assert result.shape == (3, 5)
    np.testing.assert_allclose(result, heat / heat.max(), atol=1e-4)


@pytest.fixture(scope="module")
def spot_finder() -> Classifier:
    """A classifier trained for a few seconds to recognise images with a bright spot."""
    torch.manual_seed(0)
    model = build_classifier(NARROW, 2, None)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        images = 0.3 * torch.randn(16, 1, CELL * CELLS, CELL * CELLS, generator=generator)
        labels = torch.arange(16) % 2
        for image in images[1::2]:
            row, column = torch.randint(CELLS, (2,), generator=generator).tolist()
            put_spot(image, row, column)
        loss = functional.cross_entropy(model(images, None, None), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def put_spot(image: torch.Tensor, row: int, column: int) -> None:
    top, left = row * CELL + CELL // 4, column * CELL + CELL // 4
    image[..., top : top + CELL // 2, left : left + CELL // 2] += 3


def by_occlusion(model: Classifier, image: torch.Tensor, background: torch.Tensor) -> np.ndarray:
    """Decrease of the class's logit if a cell shows only background (Zeiler and Fergus 2014), [cells, cells]."""
    decrease = np.zeros((CELLS, CELLS))
    with torch.no_grad():
        logit = model(image, None, None)[0, 1]
        for row, column in np.ndindex(CELLS, CELLS):
            cell = (..., slice(row * CELL, (row + 1) * CELL), slice(column * CELL, (column + 1) * CELL))
            occluded = image.clone()
            occluded[cell] = background[cell]
            decrease[row, column] = logit - model(occluded, None, None)[0, 1]
    return decrease


def test_the_heat_is_highest_where_occlusion_lowers_the_logit_most(spot_finder: Classifier) -> None:
    generator = torch.Generator().manual_seed(5)
    for row, column in [(0, 1), (1, 2), (2, 0), (3, 3)]:
        background, other = 0.3 * torch.randn(2, 1, 1, CELL * CELLS, CELL * CELLS, generator=generator)
        image = background.clone()
        put_spot(image, row, column)
        decrease, heat = by_occlusion(spot_finder, image, other), grad_cam(spot_finder, Inputs(image), 1)
        assert np.unravel_index(decrease.argmax(), decrease.shape) == (row, column)
        hottest = np.array(np.unravel_index(heat.argmax(), heat.shape))
        assert np.abs(hottest - (row, column)).max() <= 1  # receptive fields of neighbouring tokens overlap
        assert heat[row, column] > 0.8


def test_the_heat_is_zero_if_no_token_increases_the_logit() -> None:
    model = build_classifier(NARROW, 2, None).eval()
    with torch.no_grad():
        for parameter in model.head.output.parameters():
            parameter.zero_()
    assert not grad_cam(model, Inputs(torch.randn(1, 1, 64, 64)), 0).any()


@pytest.mark.parametrize("view_rows", [None, torch.tensor([[0, 1, -1]])], ids=["image", "study"])
def test_the_attention_map_is_the_mean_over_the_reports_tokens(
    small_bert: Path, view_rows: torch.Tensor | None
) -> None:
    torch.manual_seed(1)
    fused = dataclasses.replace(NARROW, mode="fused", text_encoder=str(small_bert), fusion_dim=16, fusion_heads=2)
    model = build_classifier(fused, 2, small_bert).eval()
    images = torch.randn(1 if view_rows is None else 2, 1, 64, 96)
    tokens, mask = torch.randint(5, 500, (1, 6)), torch.tensor([[1, 1, 1, 1, 0, 0]])
    inputs = Inputs(images, tokens, mask, view_rows=view_rows)
    weights = model.attention_weights(model.encode(inputs))
    assert weights is not None
    expected = weights[0, :4].mean(dim=0).detach().numpy()  # the four tokens that are not padding
    heat = attention_map(model, inputs)
    assert heat is not None
    assert heat.shape == (len(images), 2, 3)
    np.testing.assert_allclose(heat.ravel(), expected[: heat.size], rtol=1e-5)
    assert heat.sum() == pytest.approx(1)


def test_there_is_no_attention_map_without_a_report_or_with_pooled_fusion(small_bert: Path) -> None:
    images, tokens = torch.randn(1, 1, 64, 64), torch.ones(1, 4, dtype=torch.int64)
    assert attention_map(build_classifier(NARROW, 2, None).eval(), Inputs(images)) is None
    pooled = dataclasses.replace(NARROW, mode="fused", text_encoder=str(small_bert), fusion="pooled")
    assert attention_map(build_classifier(pooled, 2, small_bert).eval(), Inputs(images, tokens, tokens)) is None
