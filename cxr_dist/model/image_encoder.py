"""Image encoders by name: torchvision's DenseNet with a stem for one grey channel, or an encoder of the user's own.

A grey film repeated three times gives every RGB kernel the same input, so one kernel that is their sum computes
the same function for a third of the work (Huang et al. 2017, "Densely Connected Convolutional Networks").

An own encoder is MODULE:NAME or FILE.py:NAME, where NAME(config: ModelConfig) makes an nn.Module with `width: int`,
whose forward takes normalised films, float [b, 1, H, W], and returns (tokens [b, n, width], pooled [b, width]). NAME
may have attributes: `mean` and `deviation`, by which grey levels in 0 to 1 are normalised (those of ImageNet if it has
none), and `gradient_checkpointing = True` where the encoder recomputes activations if `config.checkpoints_image`. It
loads weights of its own where `config.pretrained` is true, which it is not when a trained model is opened. The file
examples/own_encoder/encoder.py is one.
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
    """Mean and deviation of the films that an image encoder expects, where 0 is black and 1 is white."""

    mean: float
    deviation: float

    def normalise(self, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Films uint8 [b, 1, H, W], 0 to 255, to floats: (level - mean) / deviation."""
        return images.to(dtype).div_(255).sub_(self.mean).div_(self.deviation)


# ImageNet's per-channel mean (0.485, 0.456, 0.406) and deviation (0.229, 0.224, 0.225), each averaged.
IMAGENET = GreyLevels(0.449, 0.226)
_ARCHITECTURES: dict[str, dict[str, Any]] = {
    "densenet121": {"growth_rate": 32, "block_config": (6, 12, 24, 16), "num_init_features": 64},
    "densenet-narrow": {"growth_rate": 16, "block_config": (1, 2, 4, 4), "num_init_features": 16},
}


def grey_weights(rgb: dict[str, Tensor]) -> dict[str, Tensor]:
    """A torchvision DenseNet's weights for `ImageEncoder`: the stem's RGB kernels summed, no classifier."""
    weights = {name: tensor for name, tensor in rgb.items() if name.startswith("features.")}
    weights["features.conv0.weight"] = rgb["features.conv0.weight"].sum(dim=1, keepdim=True)
    return weights


class ImageEncoder(nn.Module):
    """DenseNet features: `densenet121` (1024 wide) or `densenet-narrow` (108 wide), random at first.

    `dropout` acts after each of its dense layers, as in the paper's runs without augmentation. With
    `gradient_checkpointing` a training pass keeps no layer's concatenated input, whose size grows from layer to layer,
    but joins and normalises it again in the backward pass (Pleiss et al. 2017, arXiv 1707.06990).
    """

    def __init__(self, name: str, *, dropout: float = 0.0, gradient_checkpointing: bool = False) -> None:
        super().__init__()
        architecture = _ARCHITECTURES[name]
        densenet = DenseNet(**architecture, drop_rate=dropout)
        self.dropout, self.gradient_checkpointing = dropout, gradient_checkpointing
        self.width: int = densenet.classifier.in_features
        self.features: nn.Sequential = densenet.features
        stem = nn.Conv2d(1, architecture["num_init_features"], kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(stem.weight)  # as torchvision starts its convolutions
        self.features.conv0 = stem
        # Convolutions then compute in this layout, whatever that of the film; tensor cores and oneDNN want it.
        self.features.to(memory_format=torch.channels_last)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Train or eval mode; in eval mode nothing is computed twice."""
        super().train(mode)
        for layer in self.modules():
            if isinstance(layer, _DenseLayer):
                layer.memory_efficient = mode and self.gradient_checkpointing
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised films float [b, 1, H, W] to image tokens [b, H/32 · W/32, width] and their mean [b, width].

        Tokens run row by row. At 224 pixels they are 7 × 7.
        """
        features = functional.relu(self.features(images))
        tokens = features.flatten(2).transpose(1, 2)
        return tokens, tokens.mean(dim=1)


@dataclass(frozen=True, kw_only=True)
class ImageEncoderKind:
    """An image encoder that a configuration can name, and what the package has to know of it."""

    build: Callable[[ModelConfig], nn.Module]
    """Makes the encoder, with random weights if it is one of ours."""
    levels: GreyLevels = IMAGENET
    """What its films are normalised by."""
    component: str | None = None
    """Where its published weights are in the weights bundle; None where it has none there."""
    recomputes: bool = True
    """Whether it can compute activations again in the backward pass."""

    def load(self, encoder: nn.Module, bundle: Path) -> None:
        """Take the published weights, if there are any; raises UserError where they are missing or damaged."""
        if self.component is not None:
            encoder.load_state_dict(grey_weights(component_weights(bundle, self.component)))


def _densenet(config: ModelConfig) -> ImageEncoder:
    return ImageEncoder(
        config.image_encoder, dropout=config.image_dropout, gradient_checkpointing=config.checkpoints_image
    )


IMAGE_ENCODERS = {
    "densenet121": ImageEncoderKind(build=_densenet, component=IMAGE_COMPONENT),
    "densenet-narrow": ImageEncoderKind(build=_densenet),
}


def image_encoder_kind(name: str) -> ImageEncoderKind:
    """The image encoder of that name: ours, or MODULE:NAME or FILE.py:NAME; raises UserError for another."""
    found = look_up("image encoder", name, IMAGE_ENCODERS)
    if isinstance(found, ImageEncoderKind):
        return found

    def build(config: ModelConfig) -> nn.Module:
        with guarded("image encoder", name):
            encoder: nn.Module = found(config)
        return encoder

    return ImageEncoderKind(
        build=build,
        levels=GreyLevels(
            getattr(found, "mean", IMAGENET.mean), getattr(found, "deviation", IMAGENET.deviation)
        ),
        recomputes=bool(getattr(found, "gradient_checkpointing", False)),
    )
