"""One affine warp from a decoded film to the network's input: crop, resize, rotate, shift, zoom and flip at once.

The parameters follow from a draw's 64-bit key alone, so that no worker and no rank enters. Brightness and
contrast are left to the device (`jitter`), where they cost nothing.
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
    """Ranges of the random affine map; all zero is the plain centre crop of evaluation."""

    rotation_degrees: float = 0.0
    shift: float = 0.0
    zoom: float = 0.0
    flip_probability: float = 0.0

    @classmethod
    def of(cls, config: DataConfig) -> "Augmentation":
        """The training augmentation that the configuration asks for."""
        return cls(
            rotation_degrees=config.rotation_degrees,
            shift=config.shift,
            zoom=config.zoom,
            flip_probability=config.flip_probability,
        )

    def matrices(
        self, shapes: Sequence[tuple[int, ...]], size: int, keys: NDArray[np.uint64]
    ) -> NDArray[np.float64]:
        """Maps [b, 2, 3] from output pixels [size, size] to input pixels of films of shapes [h, w].

        The square of a film's short side, in its centre, fills the output; then the random part acts about
        the centre. Same (self, shape, key): same map.
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


def warp(film: Grey, matrix: NDArray[np.float64], out: Grey) -> None:
    """Fill `out` [size, size] from `film` [h, w] by bilinear interpolation; what lies outside is black."""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    cv2.warpAffine(film, matrix, (out.shape[1], out.shape[0]), dst=out, flags=flags)


def jitter(
    images: torch.Tensor, sample_keys: NDArray[np.uint64], brightness: float, contrast: float
) -> torch.Tensor:
    """Per-sample contrast and brightness on normalised images, float [b, 1, H, W], on their device.

    Args:
        sample_keys: [b] 64-bit keys (`plan.augmentation_key`).
        brightness: added, uniform in ± this, in units of the normalised grey (deviations).
        contrast: factor about the mean grey, uniform in 1 ± this.
    """
    signed = 2.0 * uniform(sample_keys[:, None], np.arange(5, 7)) - 1.0
    factors = to_device(torch.from_numpy(signed).to(images.dtype), images.device)
    gain = (1.0 + contrast * factors[:, 0]).view(-1, 1, 1, 1)
    bias = (brightness * factors[:, 1]).view(-1, 1, 1, 1)
    return images * gain + bias
