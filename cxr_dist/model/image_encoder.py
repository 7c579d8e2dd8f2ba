"""Image encoders by name: torchvision's DenseNet with a stem for one grey channel, one of a library, or the user's own.

If a grey image is repeated three times, all RGB kernels get the same input, so one kernel that is their sum computes
the same function with a third of the operations (Huang et al. 2017, "Densely Connected Convolutional Networks").

`timm:NAME` is in timm_encoder.py, `hf:DIR` in hub_encoder.py, and `torchxrayvision:WEIGHTS` is the DenseNet-121 with
the grey levels of that library.

A user's encoder is named MODULE:NAME or FILE.py:NAME. NAME(config: ModelConfig) returns an nn.Module with an attribute
`width: int`. Its forward takes normalised images, float [b, 1, H, W], and returns (tokens [b, n, width], pooled [b,
width]). NAME may have the attributes `mean` and `deviation`, which normalise grey levels in 0 to 1 (default: those of
ImageNet), and `gradient_checkpointing = True` if the encoder recomputes activations when `config.checkpoints_image` is
true. An encoder without dropout may say so by an attribute `dropout = 0.0`, which saves Monte-Carlo passes. It should
load weights if `config.pretrained` is true; this is false when a trained model is opened. For an
example see examples/own_encoder/encoder.py.
"""

from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import DenseNet
from torchvision.models.densenet import _DenseLayer

from cxr_dist.config.lookup import FORMS, LIBRARIES, guarded, library_of, look_up
from cxr_dist.config.model import ModelConfig
from cxr_dist.config.run import Config
from cxr_dist.errors import unknown
from cxr_dist.model.encoder_kind import IMAGENET, GreyLevels, ImageEncoderKind
from cxr_dist.model.weights import IMAGE_COMPONENT

# torchxrayvision maps the grey levels 0 to 1 to -1024 to 1024.
_TORCHXRAYVISION = GreyLevels(0.5, 1 / 2048)
_TORCHXRAYVISION_WEIGHTS = tuple(
    f"densenet121-res224-{data}" for data in ("all", "rsna", "nih", "pc", "chex", "mimic_nb", "mimic_ch")
)
IMAGE_FOLDER = "image_encoder"
"""The folder in a run folder and in an export that holds the settings of an encoder from a folder."""
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


def _densenet(config: ModelConfig) -> ImageEncoder:
    name = config.image_encoder if config.image_encoder in _ARCHITECTURES else "densenet121"
    return ImageEncoder(name, dropout=config.image_dropout, gradient_checkpointing=config.checkpoints_image)


IMAGE_ENCODERS = {
    "densenet121": ImageEncoderKind(build=_densenet, component=IMAGE_COMPONENT, translate=grey_weights),
    "densenet-narrow": ImageEncoderKind(build=_densenet, translate=grey_weights),
}


def image_encoder_kind(name: str, *, image_size: int | None = None, folder: Path | None = None) -> ImageEncoderKind:
    """The image encoder named in IMAGE_ENCODERS, of a library, or by MODULE:NAME or FILE.py:NAME.

    Args:
        name: As in `ModelConfig.image_encoder`.
        image_size: Side of the images in pixels, to which the position embeddings of an encoder are made and resized.
            None is the size of its published weights.
        folder: A run folder or an export. If it holds the settings of an `hf:` encoder, its DIR is not needed.

    Raises UserError for an unknown name, and if a library that it needs is missing.
    """
    library = library_of(name)
    if library:
        return _of_library(library, name.removeprefix(f"{library}:"), image_size, folder)
    if ":" not in name and name not in IMAGE_ENCODERS:
        raise unknown("image encoder", name, [*IMAGE_ENCODERS, *LIBRARIES.values(), FORMS])
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


def _of_library(library: str, name: str, image_size: int | None, folder: Path | None) -> ImageEncoderKind:
    if library == "torchxrayvision":
        if name not in _TORCHXRAYVISION_WEIGHTS:
            raise unknown("weights of torchxrayvision", name, _TORCHXRAYVISION_WEIGHTS)
        return ImageEncoderKind(build=_densenet, levels=_TORCHXRAYVISION, translate=grey_weights, needs_file=True)
    if library == "timm":
        from cxr_dist.model.timm_encoder import timm_kind  # timm is slow to import

        return timm_kind(name, image_size)
    from cxr_dist.model.hub_encoder import hub_kind  # as is transformers

    kept = None if folder is None else folder / IMAGE_FOLDER
    given = Path(name).expanduser()
    return hub_kind(kept if kept is not None and kept.is_dir() else given, image_size, given)


def kind_of(config: Config) -> ImageEncoderKind:
    """The image encoder of a run, from its folder as far as that holds its settings; raises UserError."""
    return image_encoder_kind(config.model.image_encoder, image_size=config.data.image_size, folder=config.run_dir)


def image_kind(config: Config) -> ImageEncoderKind | None:
    """`kind_of` a run; None if its model reads no image."""
    return kind_of(config) if config.model.uses_image else None
