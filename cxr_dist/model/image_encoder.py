"""The film's encoder: torchvision's DenseNet with a stem for one grey channel. uint8 film in, tokens out.

A grey film repeated three times gives every RGB kernel the same input, so one kernel that is their sum computes
the same function for a third of the work (Huang et al. 2017, "Densely Connected Convolutional Networks").
"""

from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import DenseNet
from torchvision.models.densenet import _DenseLayer

# ImageNet's per-channel mean (0.485, 0.456, 0.406) and deviation (0.229, 0.224, 0.225), each averaged.
GREY_MEAN = 0.449
GREY_DEVIATION = 0.226

_ARCHITECTURES: dict[str, dict[str, Any]] = {
    "densenet121": {"growth_rate": 32, "block_config": (6, 12, 24, 16), "num_init_features": 64},
    "densenet-narrow": {"growth_rate": 16, "block_config": (1, 2, 4, 4), "num_init_features": 16},
}


def normalise(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Films uint8 [b, 1, H, W] to floats of ImageNet's grey mean 0 and deviation 1; 0 is black, 255 white."""
    return images.to(dtype).div_(255).sub_(GREY_MEAN).div_(GREY_DEVIATION)


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
