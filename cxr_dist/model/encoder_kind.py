"""What a configuration says by an image encoder's name: how to build it, its grey levels, and its published weights."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cxr_dist.config.model import ModelConfig
from cxr_dist.errors import UserError
from cxr_dist.model.weights import component_weights


class GreyLevels(NamedTuple):
    """Mean and standard deviation of the grey levels that an image encoder expects. 0 is black and 1 is white."""

    mean: float
    deviation: float

    def normalise(self, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Convert images uint8 [b, 1, H, W] to floats: (level / 255 - mean) / deviation."""
        return images.to(dtype).div_(255).sub_(self.mean).div_(self.deviation)


# The averages of ImageNet's channel means (0.485, 0.456, 0.406) and deviations (0.229, 0.224, 0.225).
IMAGENET = GreyLevels(0.449, 0.226)


def unchanged(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights themselves: the translation of an encoder whose published weights have its own names."""
    return weights


@dataclass(frozen=True, kw_only=True)
class ImageEncoderKind:
    """An image encoder that a configuration can name, and its properties."""

    build: Callable[[ModelConfig], nn.Module]
    """Makes the encoder. The package's own encoders have random weights at first."""
    levels: GreyLevels = IMAGENET
    """How its images are normalised."""
    component: str | None = None
    """The folder of its published weights in the weights bundle, or None if it has none there."""
    recomputes: bool = True
    """Whether it can recompute activations in the backward pass."""
    translate: Callable[[dict[str, Tensor]], dict[str, Tensor]] = unchanged
    """Published weights to those of the encoder: without a classifier, and for a grey image. It checks nothing."""

    published: Callable[[], dict[str, Tensor]] | None = None
    """Reads its published weights if they are not in the bundle; raises UserError. None if there are none to read."""
    needs_file: bool = False
    """Whether its published weights can only be given as a file."""
    files: tuple[Path, ...] = ()
    """The files that describe it, which a run folder and an export keep in IMAGE_FOLDER."""

    def weights(self, bundle: Path) -> dict[str, Tensor] | None:
        """Its published weights; None if it has none. Raises UserError if they are missing or damaged."""
        if self.component is not None:
            return component_weights(bundle, self.component)
        if self.needs_file:
            raise UserError(
                "pretrained weights of this image encoder are not in the bundle: give them with --model.image-weights "
                "FILE, or start from random weights with --model.pretrained false"
            )
        return None if self.published is None else self.published()

    def load(self, encoder: nn.Module, bundle: Path) -> None:
        """Load the published weights, if there are any; raises UserError if they are missing, damaged or do not fit."""
        weights = self.weights(bundle)
        if weights is None:
            return
        try:
            encoder.load_state_dict(self.translate(weights))
        except RuntimeError:  # torch's message lists every tensor
            raise UserError(
                "the image encoder's published weights do not fit its settings: use weights and settings of one model"
            ) from None
