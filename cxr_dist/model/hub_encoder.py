"""Image encoders `hf:DIR`: a vision backbone of Transformers, or of open_clip, from a local folder.

    DIR/config.json  preprocessor_config.json  model.safetensors   as Transformers writes them (RAD-DINO)
    DIR/open_clip_config.json  open_clip_model.safetensors         as open_clip writes them (BiomedCLIP)

The folder's JSON files are copied into the run folder and into an export, which are then opened without DIR. Weights
are read from safetensors only, and no code of the folder is run.
"""

import dataclasses
import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cxr_dist.config.decode import parse_record
from cxr_dist.config.model import ModelConfig
from cxr_dist.errors import UserError, out_of_files, require
from cxr_dist.model.backbone import Backbone, Weights, grey_translation, resized_grid
from cxr_dist.model.encoder_kind import IMAGENET, GreyLevels, ImageEncoderKind
from cxr_dist.model.timm_encoder import timm_kind

_TRANSFORMERS, _OPEN_CLIP = "config.json", "open_clip_config.json"
_PREPROCESSING = "preprocessor_config.json"
_WEIGHTS = {_TRANSFORMERS: "model.safetensors", _OPEN_CLIP: "open_clip_model.safetensors"}
_NOT_THE_NETWORK = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "auto_map")
_UNFIT = (TypeError, ValueError, AssertionError, ArithmeticError, AttributeError, LookupError, RuntimeError)


class HubEncoder(Backbone):
    """A vision backbone of Transformers. A pooling layer with weights of its own is left out."""

    def __init__(self, network: Any, channels: int) -> None:
        super().__init__(network, channels)
        if getattr(network, "pooler", None) is not None and any(True for _ in network.pooler.parameters()):
            network.pooler = None
        config = network.config
        sizes = getattr(config, "hidden_sizes", None)
        self.width = sizes[-1] if sizes else config.hidden_size
        self._patch = getattr(config, "patch_size", 1)
        self.dropout = max(getattr(config, f"{kind}_dropout_prob", 0.0) for kind in ("hidden", "attention_probs"))
        self.pooling = "class token" if hasattr(network.embeddings, "cls_token") else "mean"

    def tokens_and_pooled(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See Backbone."""
        features: Tensor = self.network(pixel_values=images).last_hidden_state
        if features.dim() == 4:
            tokens = features.flatten(2).transpose(1, 2)
            return tokens, tokens.mean(dim=1)
        if self.pooling == "mean":
            return features, features.mean(dim=1)
        places = images.shape[-2] // self._patch * (images.shape[-1] // self._patch)
        return features[:, -places:], features[:, 0]

    def set_recomputing(self, on: bool) -> None:
        """See Backbone."""
        if on:
            self.network.gradient_checkpointing_enable({"use_reentrant": False})
        else:
            self.network.gradient_checkpointing_disable()

    @property
    def explained(self) -> nn.Module | None:
        """See Backbone."""
        if self.pooling == "mean":
            return None
        lists = [part for part in self.network.modules() if isinstance(part, nn.ModuleList)]
        blocks = next((part for part in lists if len(part) == self.network.config.num_hidden_layers), None)
        if blocks is None:
            return None
        return next((part for part in blocks[-1].modules() if isinstance(part, nn.LayerNorm)), None)


def hub_kind(folder: Path, image_size: int | None, weights: Path) -> ImageEncoderKind:
    """The kind of the encoder with its settings in `folder`, and its weights in another; raises UserError."""
    if (folder / _OPEN_CLIP).is_file():
        return _of_open_clip(folder, image_size, weights)
    if (folder / _TRANSFORMERS).is_file():
        return _of_transformers(folder, image_size, weights)
    raise UserError(
        f"image encoder hf:{folder}: expected a folder with {_TRANSFORMERS} and {_WEIGHTS[_TRANSFORMERS]}, or with "
        f"{_OPEN_CLIP} and {_WEIGHTS[_OPEN_CLIP]}"
    )


def _of_open_clip(folder: Path, image_size: int | None, place: Path) -> ImageEncoderKind:
    """The vision tower without its projection. timm itself translates open_clip's names of tensors."""
    plain = parse_record(folder / _OPEN_CLIP, f"{_OPEN_CLIP} of the image encoder")
    try:
        vision, preprocessing = plain["model_cfg"]["vision_cfg"], plain.get("preprocess_cfg", {})
        name, pool = vision["timm_model_name"], vision.get("timm_pool", "")
        colours = preprocessing.get("mean"), preprocessing.get("std")
    except (KeyError, TypeError, AttributeError):
        raise UserError(
            f"{_OPEN_CLIP} of the image encoder names no timm_model_name: only vision towers of timm are supported"
        ) from None

    def published() -> Weights:
        file = _file(place, _OPEN_CLIP)
        try:
            weights = load_file(file)
        except Exception as error:  # safetensors raises exceptions of its own
            raise out_of_files(error) or UserError(
                f"the image encoder's {file.name} cannot be read ({type(error).__name__}): download it again, or use "
                "--model.pretrained false"
            ) from None
        return {key: tensor for key, tensor in weights.items() if key.startswith("visual.")}

    kind = timm_kind(name, image_size, levels=_levels(*colours), pool=pool)
    return dataclasses.replace(kind, published=published, files=(folder / _OPEN_CLIP,), needs_file=False)


def _of_transformers(folder: Path, image_size: int | None, place: Path) -> ImageEncoderKind:
    files = tuple(folder / name for name in (_TRANSFORMERS, _PREPROCESSING) if (folder / name).is_file())
    records = [parse_record(file, f"{file.name} of the image encoder") for file in files]
    text, preprocessing = json.dumps(records[0], sort_keys=True), records[1] if len(records) > 1 else {}
    network = _examined(text)
    size = network.config.image_size if image_size is None else image_size

    def build(config: ModelConfig) -> nn.Module:
        _check_size(text, size)
        return HubEncoder(_created(text, 1, size), 1).finished(config, size)

    @cache
    def shapes() -> Weights:
        with torch.device("meta"):
            return HubEncoder(_created(text, 1, size), 1).state_dict()

    def published() -> Weights:
        from cxr_dist.model.text_encoder import read_transformer

        loaded, report = read_transformer(_file(place, _TRANSFORMERS).parent, "image encoder")
        wrong = sorted({*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])})
        wrong = [name for name in wrong if not name.startswith("pooler.")]
        require(
            not wrong,
            f"the image encoder's weights do not fit its config.json: {len(wrong)} tensors are missing or of another "
            f"shape, the first is {wrong[:1]}: use a folder with the weights and config.json of one model",
        )
        return loaded.state_dict()

    return ImageEncoderKind(
        build=build,
        levels=_levels(preprocessing.get("image_mean"), preprocessing.get("image_std")),
        recomputes=bool(network.supports_gradient_checkpointing),
        translate=grey_translation(shapes, partial(_converted, str(network.base_model_prefix), shapes)),
        published=published,
        files=files,
    )


def _file(folder: Path, settings: str) -> Path:
    file = folder / _WEIGHTS[settings]
    require(
        file.is_file(),
        f"the image encoder's folder has no {file.name}: add it, give weights with --model.image-weights FILE, or use "
        "--model.pretrained false",
    )
    return file


def _levels(mean: Any, deviation: Any) -> GreyLevels:
    """The means over the colours; those of ImageNet if there are none."""
    if mean is None or deviation is None:
        return IMAGENET
    try:
        values = [float(sum(v) / len(v)) if isinstance(v, list) else float(v) for v in (mean, deviation)]
    except (TypeError, ValueError, ZeroDivisionError):
        values = [0.0, 0.0]
    require(values[1] > 0, "mean and deviation of the image encoder's folder must be numbers, the deviation above 0")
    return GreyLevels(round(values[0], 4), round(values[1], 4))


@cache
def _examined(plain: str) -> Any:
    """The network without values; `plain` is the text of config.json, which must describe a vision backbone."""
    try:
        with torch.device("meta"):
            network = _created(plain, 1, None)
        HubEncoder(network, 1)
        fits = network.main_input_name == "pixel_values" and isinstance(getattr(network.config, "image_size", 224), int)
    except Exception:  # transformers raises many types of errors for a field of another type
        fits = False
    require(
        fits,
        f"{_TRANSFORMERS} of the image encoder does not describe a vision backbone that Transformers supports: use a "
        "folder with model_type dinov2, vit, swin or convnext, for example",
    )
    return network


@cache
def _check_size(plain: str, image_size: int) -> None:
    """Raise UserError if the network cannot take images of this size, as tensors without values show."""
    patch = getattr(_examined(plain).config, "patch_size", 1)
    try:
        if image_size % patch:
            raise ValueError
        with torch.device("meta"), torch.no_grad():
            HubEncoder(_created(plain, 1, image_size), 1)(torch.empty(2, 1, image_size, image_size))
    except _UNFIT as error:
        raise UserError(
            f"the image encoder does not take images of {image_size} × {image_size} pixels ({type(error).__name__}): "
            f"choose another --data.image-size, a multiple of its patches of {patch} pixels"
        ) from None


def _created(plain: str, channels: int, image_size: int | None) -> Any:
    """The network with random weights, for images of this size (None: its own) and without stochastic depth."""
    from transformers import AutoConfig, AutoModel  # slow to import

    changed: dict[str, Any] = {"num_channels": channels, "drop_path_rate": 0.0}
    changed |= {} if image_size is None else {"image_size": image_size}
    settings = {name: value for name, value in json.loads(plain).items() if name not in _NOT_THE_NETWORK}
    return AutoModel.from_config(AutoConfig.for_model(**(settings | changed)), trust_remote_code=False)


def _converted(prefix: str, shapes: Callable[[], Weights], weights: Weights) -> Weights:
    """Published weights by the network's own names, without heads of a larger model, and with resized positions."""
    inner = {n.removeprefix(f"{prefix}."): t for n, t in weights.items() if n.startswith(f"{prefix}.")} or weights
    ours, heads = shapes(), ("classifier.", "pooler.", "head.", "decoder.", "lm_head.")
    kept = {name: tensor for name, tensor in inner.items() if not name.startswith(heads)}
    for name in [name for name in kept if name.endswith("position_embeddings") and f"network.{name}" in ours]:
        kept[name] = resized_grid(kept[name], ours[f"network.{name}"])
    return kept
