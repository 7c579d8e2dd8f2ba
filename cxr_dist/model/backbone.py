"""A published network of another library as an image encoder: grey images in, tokens and one vector for the image out.

Its first layers take one channel where that is exact: a linear layer maps a grey image that is repeated three times to
the same values as its kernels' sum maps the image itself. Otherwise the image is repeated.
"""

import contextlib
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from cxr_dist.config.model import ModelConfig
from cxr_dist.errors import UserError

Weights = dict[str, Tensor]
_PREFIX = "network."


class Backbone(nn.Module):
    """Base class: `network` and what is known about it. Subclasses compute `tokens_and_pooled`."""

    width: int
    """Length of a token and of the pooled vector."""
    pooling: str
    """What the pooled vector is: `mean` of the tokens, `class token`, or the library's word for another pooling."""
    dropout = 0.0
    """The largest dropout rate of its layers in training. There is no other randomness."""

    def __init__(self, network: Any, channels: int) -> None:
        """`channels`: 1 for a network of one grey channel, 3 for one that gets the grey image three times."""
        super().__init__()
        self.network, self.channels = network, channels
        self._recomputes = False
        self._without_gradient: tuple[str, ...] = ()

    def tokens_and_pooled(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images float [b, channels, H, W] to tokens [b, n, width] and the pooled vectors [b, width]."""
        raise NotImplementedError

    def set_recomputing(self, on: bool) -> None:
        """Switch the network's own gradient checkpointing on or off."""
        raise NotImplementedError

    @property
    def explained(self) -> nn.Module | None:
        """The module whose tokens Grad-CAM explains, before those without a place; None: the tokens of `forward`.

        The last block's first normalisation where the class token is the pooled vector, because the tokens after the
        last block do not affect it.
        """
        return None

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images float [b, 1, H, W] to tokens [b, n, width], row by row, and the pooled vectors."""
        return self.tokens_and_pooled(images.expand(-1, self.channels, -1, -1) if self.channels > 1 else images)

    def finished(self, config: ModelConfig, image_size: int) -> Self:
        """Prepare for training by `config`: gradient checkpointing, and no gradient for parameters without effect.

        An example of such parameters is the normalisation of the pooled vector in a model that reads only the tokens.
        Raises UserError if the network cannot take images of this size.
        """
        if config.image_dropout:
            raise UserError(
                f"model.image_dropout {config.image_dropout} is only for densenet121 and densenet-narrow: use "
                f"--model.image-dropout 0 with {config.image_encoder.partition(':')[0]}: encoders"
            )
        self._without_gradient = self._unused(config.mode == "fused" and config.fusion == "tokens", image_size)
        self._recomputes = config.checkpoints_image
        self.requires_grad_()
        return self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set train or eval mode. Activations are recomputed in train mode only."""
        super().train(mode)
        if self._recomputes:
            self.set_recomputing(mode)
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """As torch's, but parameters without effect never get a gradient: DistributedDataParallel would wait for it."""
        super().requires_grad_(requires_grad)
        for name in self._without_gradient:
            self.get_parameter(name).requires_grad_(False)
        return self

    def _unused(self, reads_tokens: bool, image_size: int) -> tuple[str, ...]:
        """The parameters on which what the model reads does not depend, found on tensors without values."""
        training = self.training
        parameters = {name: _shape_of(value).requires_grad_() for name, value in self.named_parameters()}
        buffers = {name: _shape_of(value) for name, value in self.named_buffers()}
        images = torch.empty(2, 1, image_size, image_size, device="meta")
        with torch.enable_grad():
            outputs = functional_call(self.eval(), parameters | buffers, (images,))
            read = outputs[0] if reads_tokens else outputs[1]
            gradients = torch.autograd.grad(read.sum(), list(parameters.values()), allow_unused=True)
        self.train(training)
        return tuple(name for name, gradient in zip(parameters, gradients, strict=True) if gradient is None)


def _shape_of(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="meta", requires_grad=False)


def grey_translation(shapes: Callable[[], Weights], convert: Callable[[Weights], Weights]) -> Callable[..., Weights]:
    """The `translate` of an image encoder's kind (see there) for a `Backbone`.

    Args:
        shapes: The state of the encoder; its tensors may be without values. It is called once for each prefix in a
            file of weights, so that it should keep what it made.
        convert: From published weights to the network's names and sizes, but for RGB. It may raise for those of
            another network, which are then left as they are.
    """

    def translate(weights: Weights) -> Weights:
        if weights and all(name.startswith(_PREFIX) for name in weights):
            weights = {name.removeprefix(_PREFIX): tensor for name, tensor in weights.items()}
        # Whoever compares names and shapes says what is wrong with the weights of another network.
        with contextlib.suppress(LookupError, ValueError, RuntimeError, AttributeError, TypeError, AssertionError):
            weights = convert(weights)
        ours = shapes()
        return {_PREFIX + name: _grey(tensor, ours.get(_PREFIX + name)) for name, tensor in weights.items()}

    return translate


def _grey(tensor: Tensor, ours: Tensor | None) -> Tensor:
    """The sum over colours, [out, 1, kh, kw], where the encoder has one channel and the published kernel has three."""
    if ours is None or ours.dim() != 4 or ours.shape[1] != 1 or tensor.dim() != 4 or tensor.shape[1] != 3:
        return tensor
    return tensor.sum(dim=1, keepdim=True)


def resized_grid(positions: Tensor, ours: Tensor) -> Tensor:
    """Position embeddings [1, prefix + h², width] of a square grid for the grid of `ours`, by bicubic interpolation.

    The first ones, which belong to no place of the image, are kept. Other shapes are returned as they are.
    """
    old, new = positions.shape[1], ours.shape[1]
    side, target = (int((number - 1) ** 0.5) for number in (old, new))
    prefix = old - side**2
    if old == new or new - target**2 != prefix or positions.shape[2] != ours.shape[2]:
        return positions
    grid = positions[:, prefix:].mT.reshape(1, -1, side, side)
    resized = functional.interpolate(grid.float(), size=(target, target), mode="bicubic", antialias=True)
    return torch.cat([positions[:, :prefix], resized.flatten(2).mT.to(positions)], dim=1)
