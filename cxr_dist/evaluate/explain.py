"""Heat maps over the image: Grad-CAM (Selvaraju et al. 2017), and the attention of the report."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxr_dist.model.classifier import Classifier
from cxr_dist.model.inputs import Inputs


def grad_cam(model: Classifier, inputs: Inputs, class_index: int) -> NDArray[np.float64] | None:
    """Heat map in [0, 1] over the image tokens, [h, w]; all 0 if no token increases the logit of the class.

    The images of a study are placed side by side, [h, images · w], on one scale. None if the image encoder's tokens do
    not form a grid over the image, or do not affect the logit.

    Args:
        model: in eval mode, with an image encoder.
        inputs: of one case, b = 1.
        class_index: the class whose logit is explained.
    """
    assert inputs.images is not None, "Grad-CAM needs an image"
    assert model.image is not None
    given: list[Tensor] = []  # one tensor, [images, n, image width]
    inner: list[Tensor] = []  # the same of a layer that the encoder names, with tokens before it that have no place
    inside = getattr(model.image, "explained", None)
    hooks = [model.image.register_forward_hook(lambda _module, _inputs, output: given.append(output[0]))]
    if inside is not None:
        hooks.append(inside.register_forward_hook(lambda _module, _inputs, output: inner.append(output)))
    try:
        with torch.enable_grad():
            logit = model(*inputs)[0, class_index]
    finally:
        for hook in hooks:
            hook.remove()
    number = given[0].shape[1]
    explained = inner[0] if inner else given[0]
    (gradient,) = torch.autograd.grad(logit, explained, allow_unused=True)
    grid = _grid(number, *inputs.images.shape[2:])
    if gradient is None or grid is None:
        return None
    gradient, tokens = gradient[:, -number:], explained.detach()[:, -number:]
    heat = (gradient.mean(dim=(0, 1)) * tokens).sum(-1).clamp_min(0).double()
    heat = heat.view(-1, *grid).movedim(0, 1).reshape(grid[0], -1)
    return (heat / heat.max().clamp_min(1e-12)).cpu().numpy()


@torch.no_grad()
def attention_map(model: Classifier, inputs: Inputs) -> NDArray[np.float64] | None:
    """The attention of the whole report to each place of the images, [images, h, w]; sums to 1.

    It is the mean over heads and over the report's tokens, and does not depend on a class. None if the model has no
    attention from the report to places of the image.

    Args:
        model: in eval mode.
        inputs: of one case, b = 1.
    """
    if inputs.images is None or inputs.attention_mask is None:
        return None
    shares = model.summary.token_shares(inputs.attention_mask)
    if shares is None:
        return None
    weights = model.attention_weights(model.encode(inputs))
    if weights is None:
        return None
    images = len(inputs.images)
    of_tokens = (shares[0].double() @ weights[0].double()).cpu().numpy()
    places = len(of_tokens) // (1 if inputs.view_rows is None else inputs.view_rows.shape[1])
    grid = _grid(places, *inputs.images.shape[2:])
    return None if grid is None else of_tokens[: images * places].reshape(images, *grid)


def _grid(tokens: int, height: int, width: int) -> tuple[int, int] | None:
    """Rows and columns of tokens that cover an image in squares; None if that number of tokens cannot."""
    per_pixel = math.sqrt(tokens / (height * width))
    rows, columns = round(height * per_pixel), round(width * per_pixel)
    return (rows, columns) if rows * columns == tokens else None
