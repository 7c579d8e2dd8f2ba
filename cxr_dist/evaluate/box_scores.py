"""Scores of one heat map against the boxes of one finding, and the maps that know nothing of the model.

The pointing game (Zhang et al., "Top-down neural attention by excitation backprop", 2018) asks whether the highest
point of the map lies in a box. The energy-based pointing game (Wang et al., "Score-CAM", 2020) asks which share of the
map's sum lies in the boxes. A map is [images, h, w], with a value for the centre of each of the h · w parts of an image
of the network's input; between the centres it is interpolated, so its highest point is one of them.
"""

import cv2
import numpy as np

from cxr_dist.data.random import uniform
from cxr_dist.evaluate.arrays import Bools, Floats

POINTING_TOLERANCE = 0.03
"""Distance in shares of the input's side by which the highest point may miss a box. Zhang et al. allow 15 pixels in
images of about 500."""
GAUSSIAN_DEVIATION = 0.25
"""Standard deviation of the centred Gaussian in shares of the input's side."""


def is_empty(heat: Floats) -> bool:
    """Whether the map has no positive value, so that it points nowhere."""
    return not bool((heat > 0).any())


def points_at(heat: Floats, mask: Bools) -> bool:
    """Whether the highest point of a map is at most POINTING_TOLERANCE away from the boxes, in the same image.

    The first of equally high points counts. An empty map points at nothing.

    Args:
        heat: [images, h, w].
        mask: [images, size, size], the pixels of the network's input that are in a box.
    """
    if is_empty(heat):
        return False
    image, *place = np.unravel_index(int(heat.argmax()), heat.shape)
    pixels, size = np.argwhere(mask[image]), mask.shape[-1]
    if not len(pixels):
        return False
    point = [(int(part) + 0.5) * size / parts for part, parts in zip(place, heat.shape[1:], strict=True)]
    gaps = np.maximum(np.abs(pixels + 0.5 - point) - 0.5, 0)  # to the nearest edge of each pixel
    return bool(np.hypot(gaps[:, 0], gaps[:, 1]).min() <= POINTING_TOLERANCE * size)


def share_inside(heat: Floats, mask: Bools) -> float:
    """The share of the map's sum over pixels in `mask`, 0 to 1; 0 for an empty map. Arguments as in `points_at`."""
    if is_empty(heat):
        return 0.0
    size = mask.shape[-1]
    pixels = np.stack([cv2.resize(each, (size, size), interpolation=cv2.INTER_LINEAR) for each in heat])
    return float(pixels[mask].sum() / pixels.sum())


def centred_gaussian(images: int, size: int) -> Floats:
    """A map [images, size, size] that is highest in the middle of each image, where findings often are."""
    squares = ((np.arange(size) - (size - 1) / 2) / (GAUSSIAN_DEVIATION * size)) ** 2
    return np.tile(np.exp(-(squares[:, None] + squares) / 2), (images, 1, 1))


def random_tokens(images: int, grid: tuple[int, int], *words: int) -> Floats:
    """A map [images, h, w] of uniform random numbers, the same for the same words."""
    return uniform(*words, np.arange(images * grid[0] * grid[1])).reshape(images, *grid)
