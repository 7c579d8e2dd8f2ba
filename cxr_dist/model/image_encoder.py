"""Image encoders by name: torchvision's DenseNet with a stem for one grey channel, or an encoder that the user writes.

If a grey image is repeated three times, all RGB kernels get the same input, so one kernel that is their sum computes
the same function with a third of the operations (Huang et al. 2017, "Densely Connected Convolutional Networks").

A user's encoder is named MODULE:NAME or FILE.py:NAME. NAME(config: ModelConfig) returns an nn.Module with an attribute
`width: int`. Its forward takes normalised images, float [b, 1, H, W], and returns (tokens [b, n, width], pooled [b,
width]). NAME may have the attributes `mean` and `deviation`, which normalise grey levels in 0 to 1 (default: those of
ImageNet), and `gradient_checkpointing = True` if the encoder recomputes activations when `config.checkpoints_image` is
true. It should load weights if `config.pretrained` is true; this is false when a trained model is opened. For an
example see examples/own_encoder/encoder.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import DenseNet
from torchvision.models.densenet import _DenseLayer

from cxr_dist.config.lookup import guarded, look_up
from cxr_dist.config.model import ModelConfig
from cxr_dist.model.weights import IMAGE_COMPONENT, component_weights


class GreyLevels(NamedTuple):
    """Mean and standard deviation of the grey levels that an image encoder expects. 0 is black and 1 is white."""

    mean: float
    deviation: float

    def normalise(self, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Convert images uint8 [b, 1, H, W] to floats: (level / 255 - mean) / deviation."""
        return images.to(dtype).div_(255).sub_(self.mean).div_(self.deviation)


# The averages of ImageNet's channel means (0.485, 0.456, 0.406) and deviations (0.229, 0.224, 0.225).
IMAGENET = GreyLevels(0.449, 0.226)
_ARCHITECTURES: dict[str, dict[str, Any]] = {
    "densenet121": {"growth_rate": 32, "block_config": (6, 12, 24, 16), "num_init_features": 64},
    "densenet-narrow": {"growth_rate": 16, "block_config": (1, 2, 4, 4), "num_init_features": 16},
}


def grey_weights(rgb: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a torchvision DenseNet for `ImageEncoder`, without the classifier and with summed RGB kernels.

    A tensor that is missing stays missing, and weights of an `ImageEncoder` are not changed.
    """
    weights = {name: tensor for name, tensor in rgb.items() if name.startswith("features.")}
    if (stem := weights.get("features.conv0.weight")) is not None and stem.dim() == 4:
        weights["features.conv0.weight"] = stem.sum(dim=1, keepdim=True)
    return weights


def unchanged(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights themselves: the translation of an encoder whose published weights have its own names."""
    return weights


class ImageEncoder(nn.Module):
    """The features of `densenet121` (1024 wide) or `densenet-narrow` (108 wide), with random weights.

    `dropout` is applied after each dense layer, as in the paper's experiments without augmentation. With
    `gradient_checkpointing` the concatenated inputs of the layers are not kept for the backward pass, but concatenated
    and normalised again (Pleiss et al. 2017, arXiv 1707.06990).
    """

    def __init__(self, name: str, *, dropout: float = 0.0, gradient_checkpointing: bool = False) -> None:
        super().__init__()
        architecture = _ARCHITECTURES[name]
        densenet = DenseNet(**architecture, drop_rate=dropout)
        self.dropout, self.gradient_checkpointing = dropout, gradient_checkpointing
        self.width: int = densenet.classifier.in_features
        self.features: nn.Sequential = densenet.features
        stem = nn.Conv2d(1, architecture["num_init_features"], kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(stem.weight)  # as torchvision initialises its convolutions
        self.features.conv0 = stem
        # Convolutions then run in this layout, which is faster with tensor cores and oneDNN.
        self.features.to(memory_format=torch.channels_last)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set train or eval mode. Activations are recomputed in train mode only."""
        super().train(mode)
        for layer in self.modules():
            if isinstance(layer, _DenseLayer):
                layer.memory_efficient = mode and self.gradient_checkpointing
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images float [b, 1, H, W] to image tokens [b, H/32 · W/32, width] and their mean [b, width].

        Tokens are ordered row by row. An image of 224 × 224 pixels has 7 × 7 tokens.
        """
        features = functional.relu(self.features(images))
        tokens = features.flatten(2).transpose(1, 2)
        return tokens, tokens.mean(dim=1)


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

    def load(self, encoder: nn.Module, bundle: Path) -> None:
        """Load the published weights, if there are any; raises UserError if they are missing or damaged."""
        if self.component is not None:
            encoder.load_state_dict(self.translate(component_weights(bundle, self.component)))


def _densenet(config: ModelConfig) -> ImageEncoder:
    return ImageEncoder(
        config.image_encoder, dropout=config.image_dropout, gradient_checkpointing=config.checkpoints_image
    )


IMAGE_ENCODERS = {
    "densenet121": ImageEncoderKind(build=_densenet, component=IMAGE_COMPONENT, translate=grey_weights),
    "densenet-narrow": ImageEncoderKind(build=_densenet, translate=grey_weights),
}


def image_encoder_kind(name: str) -> ImageEncoderKind:
    """The image encoder named in IMAGE_ENCODERS, or by MODULE:NAME or FILE.py:NAME; raises UserError otherwise."""
    kind = look_up("image encoder", name, IMAGE_ENCODERS)
    if isinstance(kind, ImageEncoderKind):
        return kind

    def build(config: ModelConfig) -> nn.Module:
        with guarded("image encoder", name):
            encoder: nn.Module = kind(config)
        return encoder

    levels = GreyLevels(getattr(kind, "mean", IMAGENET.mean), getattr(kind, "deviation", IMAGENET.deviation))
    recomputes = bool(getattr(kind, "gradient_checkpointing", False))
    return ImageEncoderKind(build=build, levels=levels, recomputes=recomputes)
