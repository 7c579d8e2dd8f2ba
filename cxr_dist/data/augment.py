"""Crop, resize, rotate, shift, zoom and flip a decoded image to the network's input in one affine warp.

The parameters depend only on a draw's 64-bit key, and not on the worker or the rank. Brightness and contrast are
changed on the device (`jitter`), where this costs almost nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from cxr_dist.config.data import DataConfig
from cxr_dist.data.random import uniform
from cxr_dist.data.transfer import to_device

Grey = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Ranges of the random affine map. If all are zero, it is the centre crop used in evaluation."""

    rotation_degrees: float = 0.0
    shift: float = 0.0
    zoom: float = 0.0
    flip_probability: float = 0.0

    @classmethod
    def of(cls, config: DataConfig) -> "Augmentation":
        """The training augmentation of a configuration."""
        return cls(
            rotation_degrees=config.rotation_degrees,
            shift=config.shift,
            zoom=config.zoom,
            flip_probability=config.flip_probability,
        )

    def matrices(self, shapes: Sequence[tuple[int, ...]], size: int, keys: NDArray[np.uint64]) -> NDArray[np.float64]:
        """Affine maps [b, 2, 3] from output pixels [size, size] to input pixels of images of shapes [h, w].

        The central square, whose side is the image's short side, fills the output; the random part is applied about
        its centre. The same (self, shape, key) always gives the same map.
        """
        width_height = np.array(shapes, dtype=np.float64)[:, ::-1]
        side = width_height.min(axis=1)
        u = uniform(keys[:, None], np.arange(5))
        signed = 2.0 * u - 1.0
        angle = np.deg2rad(self.rotation_degrees * signed[:, 0])
        scale = side / size * (1.0 + self.zoom * signed[:, 1])
        mirror = np.where(u[:, 4] < self.flip_probability, -1.0, 1.0)
        cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
        maps = np.empty((len(keys), 2, 3))
        maps[:, :, 0] = np.stack([cosine * mirror, sine * mirror], axis=1)
        maps[:, :, 1] = np.stack([-sine, cosine], axis=1)
        middle_out, middle_in = (size - 1) / 2, (width_height - 1) / 2
        moved = (self.shift * side)[:, None] * signed[:, 2:4]
        maps[:, :, 2] = middle_in + moved - maps[:, :, :2].sum(axis=2) * middle_out
        return maps


def warp(image: Grey, matrix: NDArray[np.float64], out: Grey) -> None:
    """Fill `out` [size, size] from `image` [h, w] by bilinear interpolation. Pixels outside the image are black."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    cv2.warpAffine(image, matrix, (out.shape[1], out.shape[0]), dst=out, flags=flags)


def jitter(images: torch.Tensor, sample_keys: NDArray[np.uint64], brightness: float, contrast: float) -> torch.Tensor:
    """Change contrast and brightness of normalised images, float [b, 1, H, W], on their device.

    Args:
        sample_keys: 64-bit keys [b] (`plan.augmentation_key`).
        brightness: The added value is uniform in ± this, in units of the normalised grey level (standard deviations).
        contrast: The factor about the mean grey level is uniform in 1 ± this.
    """
    signed = 2.0 * uniform(sample_keys[:, None], np.arange(5, 7)) - 1.0
    factors = to_device(torch.from_numpy(signed).to(images.dtype), images.device)
    gain = (1.0 + contrast * factors[:, 0]).view(-1, 1, 1, 1)
    bias = (brightness * factors[:, 1]).view(-1, 1, 1, 1)
    return images * gain + bias
