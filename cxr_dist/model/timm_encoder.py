"""Image encoders `timm:NAME`: the feature maps or tokens of any network of timm (PyTorch Image Models).

NAME is one of timm's (`timm.list_models()`), with or without the tag of its weights, which chooses mean and deviation.
Weights come from a file; timm never downloads here. Stochastic depth, which a few networks have by default, is off.
"""

import sys
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from cxr_dist.config.model import ModelConfig
from cxr_dist.errors import UserError, did_you_mean, require
from cxr_dist.model.backbone import Backbone, Weights, grey_translation
from cxr_dist.model.encoder_kind import GreyLevels, ImageEncoderKind

_UNFIT = (TypeError, ValueError, AssertionError, RuntimeError, ZeroDivisionError, NotImplementedError)


class _Patches(ValueError):
    """The patches of a network do not cover an image."""


class TimmEncoder(Backbone):
    """A network of timm without its classifier."""

    def __init__(self, network: Any, channels: int) -> None:
        super().__init__(network, channels)
        for part in network.modules():
            if type(part).__name__ == "DropPath":
                part.drop_prob = 0.0
        self.width = network.num_features
        self.dropout = max((part.p for part in network.modules() if isinstance(part, nn.Dropout)), default=0.0)
        self._prefix = int(getattr(network, "num_prefix_tokens", 0))
        self._channels_last = getattr(network, "output_fmt", "NCHW") == "NHWC"
        # Some families end in another layer after pooling, which changes the width.
        self._own_pooling = getattr(network, "head_hidden_size", self.width) in (self.width, None)
        kind = getattr(network, "global_pool", "avg")
        names = {"token": "class token", "map": "attention"}
        self.pooling = names.get(kind, "mean") if isinstance(kind, str) and self._own_pooling else "mean"

    def tokens_and_pooled(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See Backbone. The pooled vectors are computed from the tokens."""
        features: Tensor = self.network.forward_features(images)
        if features.dim() == 3:
            prefix, tokens = features[:, : self._prefix], features[:, self._prefix :]
            joined = torch.cat([prefix, tokens], dim=1) if self._prefix else tokens
        elif self._channels_last:
            tokens = features.flatten(1, 2)
            joined = tokens.view_as(features)
        else:
            tokens = features.flatten(2).transpose(1, 2)
            joined = tokens.transpose(1, 2).view_as(features)
        if not self._own_pooling:
            return tokens, tokens.mean(dim=1)
        return tokens, self.network.forward_head(joined, pre_logits=True)

    def set_recomputing(self, on: bool) -> None:
        """See Backbone."""
        self.network.set_grad_checkpointing(on)

    @property
    def explained(self) -> nn.Module | None:
        """See Backbone."""
        blocks = getattr(self.network, "blocks", None)
        if self.pooling == "mean" or not isinstance(blocks, nn.Sequential | nn.ModuleList):
            return None
        return next((part for part in blocks[-1].modules() if isinstance(part, nn.LayerNorm)), None)


def timm_kind(
    name: str, image_size: int | None, *, levels: GreyLevels | None = None, pool: str = ""
) -> ImageEncoderKind:
    """The kind of the encoder `name`, for images of this size (None: the size of its published weights).

    `levels` and `pool` replace those that timm knows for the name. Raises UserError for an unknown name.
    """
    settings, channels, recomputes = _examined(name, pool)
    size = settings.input_size[-1] if image_size is None else image_size

    def build(config: ModelConfig) -> nn.Module:
        _check_size(name, channels, size, pool)
        encoder = TimmEncoder(_created(name, channels, size, pool), channels)
        if not settings.fixed_input_size:
            encoder.to(memory_format=torch.channels_last)  # faster convolutions
        return encoder.finished(config, size)

    @cache
    def shapes() -> Weights:
        with torch.device("meta"):
            return TimmEncoder(_created(name, channels, size, pool), channels).state_dict()

    mean, deviation = (sum(values) / len(values) for values in (settings.mean, settings.std))
    return ImageEncoderKind(
        build=build,
        levels=levels or GreyLevels(round(mean, 4), round(deviation, 4)),
        recomputes=recomputes,
        translate=grey_translation(shapes, partial(_converted, name, size, pool)),
        needs_file=True,
    )


@cache
def _check_size(name: str, channels: int, image_size: int, pool: str) -> None:
    """Raise UserError if the network cannot take images of this size, as tensors without values show."""
    try:
        with torch.device("meta"), torch.no_grad():
            TimmEncoder(_created(name, channels, image_size, pool), channels)(torch.empty(2, 1, image_size, image_size))
    except _UNFIT as error:
        reason = str(error) if isinstance(error, _Patches) else type(error).__name__
        raise UserError(
            f"image encoder 'timm:{name}' does not take images of {image_size} × {image_size} pixels ({reason}): its "
            f"weights are for {_settings(name).input_size[-1]}; choose another --data.image-size, or another network"
        ) from None


@cache
def _examined(name: str, pool: str) -> tuple[Any, int, bool]:
    """timm's settings of a network, the channels that it is built with, and whether it can recompute activations."""
    settings = _settings(name)
    states: dict[int, dict[str, tuple[int, ...]]] = {}
    network: Any = None
    for channels in (3, 1):
        with torch.device("meta"):
            try:
                network = _created(name, channels, settings.input_size[-1], pool)
            except _UNFIT:
                continue
            states[channels] = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    require(network is not None, f"image encoder 'timm:{name}' cannot be built by this release of timm: choose another")
    try:
        network.set_grad_checkpointing(True)
        recomputes = True
    except (*_UNFIT, AttributeError):
        recomputes = False
    return settings, 1 if len(states) == 2 and _differ_in_colours(states[3], states[1]) else 3, recomputes


def _differ_in_colours(rgb: dict[str, tuple[int, ...]], grey: dict[str, tuple[int, ...]]) -> bool:
    """Whether two networks differ only in kernels that have 3 input channels in one and 1 in the other."""
    if rgb.keys() != grey.keys():
        return False
    others = {name for name in rgb if rgb[name] != grey[name]}
    return all(len(rgb[n]) == 4 and rgb[n][1] == 3 and grey[n] == (rgb[n][0], 1, *rgb[n][2:]) for n in others)


def _created(name: str, channels: int, image_size: int, pool: str) -> Any:
    arguments: dict[str, Any] = {"global_pool": pool} if pool else {}
    if _settings(name).fixed_input_size:
        arguments["img_size"] = image_size
    network = _timm().create_model(name, pretrained=False, num_classes=0, in_chans=channels, **arguments)
    patch = getattr(getattr(network, "patch_embed", None), "patch_size", (1, 1))
    if any(image_size % side for side in patch):
        raise _Patches(f"{patch[0]} × {patch[-1]} patches do not cover them")
    return network


@cache
def _settings(name: str) -> Any:
    """timm's record of a network's weights: input size, mean, deviation and names of layers."""
    timm = _timm()
    architecture, _, tag = name.partition(".")
    known = timm.list_models()
    if architecture not in known:
        similar = [other for other in known if other.startswith(architecture)][:3]
        hint = f" (did you mean {' or '.join(map(repr, similar))}?)" if similar else did_you_mean(name, known)
        raise UserError(f"unknown image encoder 'timm:{name}'{hint}; expected one of the names of timm.list_models()")
    tags = timm.list_pretrained(f"{architecture}.*")
    if tag and name not in tags:
        raise UserError(
            f"unknown image encoder 'timm:{name}'{did_you_mean(name, tags)}; expected timm:{architecture}, or with a "
            f"tag one of: {', '.join(tags) or '(none)'}"
        )
    return timm.get_pretrained_cfg(name)


@cache
def _rgb_without_values(name: str, image_size: int, pool: str) -> Any:
    with torch.device("meta"):
        return _created(name, 3, image_size, pool)


def _converted(name: str, image_size: int, pool: str, weights: Weights) -> Weights:
    """Published weights without the classifier, and with timm's own conversion of old names and of grids' sizes."""
    network = _rgb_without_values(name, image_size, pool)
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    converted: Weights = weights if convert is None else convert(dict(weights), network)
    classifiers = _settings(name).classifier or ()
    classifiers = (classifiers,) if isinstance(classifiers, str) else classifiers
    heads = tuple(f"{classifier}." for classifier in classifiers)
    return {key: tensor for key, tensor in converted.items() if not key.startswith(heads)}


def _timm() -> Any:
    try:
        import timm
    except ImportError:
        raise UserError("image encoders timm:NAME need timm: pip install 'cxr_dist[encoders]'") from None
    return timm
