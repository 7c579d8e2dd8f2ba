"""A user-defined image encoder: four convolutions, whose last feature map gives the tokens.

    cxr-dist train demo --data.shards SHARDS --model.image-encoder examples/own_encoder/encoder.py:FourConvolutions

The protocol is in cxr_dist/model/image_encoder.py. Before a run starts, the encoder is tested on two synthetic images.
The run folder keeps the sha256 of this file: resuming, evaluating and predicting need the same file.
"""

import torch
from torch import Tensor, nn

from cxr_dist.config.model import ModelConfig


class FourConvolutions(nn.Module):
    """Maps images, float [b, 1, H, W], to tokens [b, H/16 · W/16, 64], row by row, and to their maximum [b, 64]."""

    mean, deviation = 0.5, 0.25  # the images are (grey level in [0, 1] - mean) / deviation

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.width = 64
        layers: list[nn.Module] = []
        for narrow, wide in ((1, 16), (16, 32), (32, 64), (64, 64)):
            layers += [nn.Conv2d(narrow, wide, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(wide)]
            layers += [nn.ReLU(), nn.Dropout(config.image_dropout)]
        self.layers = nn.Sequential(*layers)
        # A pretrained encoder would load its weights here, if config.pretrained.

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens, to which the report's tokens attend, and the pooled image."""
        tokens = torch.flatten(self.layers(images), 2).transpose(1, 2)
        return tokens, tokens.amax(dim=1)
