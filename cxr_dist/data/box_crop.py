"""Move boxes with their image: from shares of the stored image to pixels of the network's input."""

import numpy as np
from numpy.typing import NDArray

from cxr_dist.format.stored_boxes import Corners


def corners_in_input(box: Corners, shape: tuple[int, ...], matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """(left, top, right, bottom) of a box in pixels of the network's input; it may lie outside of the input.

    A box that is turned becomes the upright rectangle around it. Coordinates are those of edges: pixel i spans i to
    i + 1.

    Args:
        box: In shares of the image.
        shape: Height and width of the image in pixels.
        matrix: The affine map [2, 3] from centres of output pixels to centres of input pixels of
            `Augmentation.matrices`, by which the image was warped.
    """
    left, top, right, bottom = box
    x = np.array([left, right, left, right]) * shape[1] - 0.5
    y = np.array([top, top, bottom, bottom]) * shape[0] - 0.5
    moved = np.linalg.solve(matrix[:, :2], np.stack([x, y]) - matrix[:, 2:]) + 0.5
    return np.concatenate([moved.min(axis=1), moved.max(axis=1)])


def mask_of(corners: NDArray[np.float64], size: int) -> NDArray[np.bool_] | None:
    """The pixels [size, size] whose centre is in a box, at least one; None if nothing of the box is in the input."""
    left, top, right, bottom = np.clip(corners, 0, size)
    if right - left <= 0 or bottom - top <= 0:
        return None
    mask = np.zeros((size, size), dtype=np.bool_)
    mask[_pixels(top, bottom, size), _pixels(left, right, size)] = True
    return mask


def _pixels(low: float, high: float, size: int) -> slice:
    """The pixels with a centre between two edges, or the one that holds their middle."""
    first, last = int(np.ceil(low - 0.5)), int(np.ceil(high - 0.5))
    middle = min(int((low + high) / 2), size - 1)
    return slice(first, last) if last > first else slice(middle, middle + 1)
