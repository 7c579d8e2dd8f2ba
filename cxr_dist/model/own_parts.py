"""Test the encoders and the loss that a user writes with synthetic samples on the CPU before a run uses any device.

Image encoders are described in image_encoder.py, losses in losses.py. A user's text encoder is named MODULE:NAME or
FILE.py:NAME. NAME(folder: Path, config: ModelConfig) returns an nn.Module with `width: int` and `max_tokens: int`. Its
forward takes token ids and mask, int64 [b, T], and `positions` (int64 [N], the positions in b · T whose vectors are
used; the others may have any finite value), and returns vectors [b, T, width]. FOLDER/config.json has the `vocab_size`
of the tokenizer, which is learned from the training reports as for `tiny`. NAME may have the attribute
`gradient_checkpointing = True` if the encoder respects `config.checkpoints_text`. The encoder may have
`get_input_embeddings()`, as transformers' models do, for the word scores of `cxr-dist predict`.
"""

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from cxr_dist.config.lookup import guarded, library_of, look_up, recorded_name
from cxr_dist.config.model import ModelConfig
from cxr_dist.config.run import Config
from cxr_dist.data.packing import packed_positions
from cxr_dist.data.text import PAD_MULTIPLE, prepare_text_folder
from cxr_dist.errors import UserError, require
from cxr_dist.format.manifest import Task
from cxr_dist.model.classifier import build_text_encoder
from cxr_dist.model.image_encoder import image_encoder_kind, kind_of
from cxr_dist.model.losses import LOSSES, ClassificationLoss

_SAMPLES = 2
_TOKEN_IDS = 5  # every tokenizer has at least the special tokens


def check_parts(config: Config, task: Task) -> None:
    """Test the encoders and the loss of a run that the user wrote.

    Raises UserError for a name that does not exist, and for a part that breaks its protocol.
    """
    model = config.model
    able = recomputable(config)
    for kind, required, name in (
        ("image", model.checkpoints_image, model.image_encoder),
        ("text", model.checkpoints_text, model.text_encoder),
    ):
        require(
            not required or kind in able,
            f"{kind} encoder {recorded_name(name) if library_of(name) else name!r} "
            + ("" if library_of(name) else "has no attribute gradient_checkpointing, so it ")
            + "cannot recompute activations: set --model.gradient-checkpointing to auto or off",
        )
    with torch.random.fork_rng(devices=[]):
        if model.uses_image and library_of(model.image_encoder):
            with torch.device("meta"):  # refuses a size of images that it cannot take
                kind_of(config).build(dataclasses.replace(model, pretrained=False))
        elif model.uses_image and ":" in model.image_encoder:
            _try_image_encoder(model, config.data.image_size)
        if model.uses_text and model.has_own_text_encoder:
            _try_text_encoder(model, config.data.max_tokens)
        _try_loss(config, task)


def recomputable(config: Config) -> list[str]:
    """The encoders of a run, "text" and "image", that can recompute activations in the backward pass."""
    able, model = [], config.model
    if model.uses_text:
        own = look_up("text encoder", model.text_encoder, {}) if model.has_own_text_encoder else None
        if own is None or getattr(own, "gradient_checkpointing", False):
            able.append("text")
    if model.uses_image and kind_of(config).recomputes:
        able.append("image")
    return able


def _try_image_encoder(config: ModelConfig, image_size: int) -> None:
    what, name = "image encoder", config.image_encoder
    kind = image_encoder_kind(name)
    encoder = kind.build(dataclasses.replace(config, pretrained=False))
    width = _size_of(what, name, encoder, "width")
    _require(what, name, kind.levels.deviation > 0, "have a `deviation` above 0, if it has one")
    images = torch.randint(256, (_SAMPLES, 1, image_size, image_size), dtype=torch.uint8)
    with guarded(what, name):
        result = encoder(kind.levels.normalise(images))
    _require(what, name, isinstance(result, tuple) and len(result) == 2, "return a pair: tokens and pooled")
    tokens, pooled = result
    number = tokens.shape[1] if isinstance(tokens, Tensor) and tokens.dim() == 3 else 0
    _require(what, name, number > 0, f"return tokens [b, n, {width}] as its first")
    _check_tensor(what, name, "tokens", tokens, (_SAMPLES, number, width))
    _check_tensor(what, name, "pooled", pooled, (_SAMPLES, width))
    attended = config.mode == "fused" and config.fusion == "tokens"
    _check_gradients(what, name, encoder, pooled.sum() + tokens.sum() if attended else pooled.sum())


def _try_text_encoder(config: ModelConfig, max_tokens: int) -> None:
    what, name = "text encoder", config.text_encoder
    with tempfile.TemporaryDirectory() as folder:
        prepare_text_folder(Path(folder) / "text_encoder", None, iter(()))
        random_weights = dataclasses.replace(config, pretrained=False)
        encoder = build_text_encoder(random_weights, Path(folder) / "text_encoder")
    width = _size_of(what, name, encoder, "width")
    longest = _size_of(what, name, encoder, "max_tokens")
    require(max_tokens <= longest, f"{what} {name!r} takes {longest} tokens at most: lower --data.max-tokens")
    length = min(PAD_MULTIPLE, longest)
    mask = (torch.arange(length) < torch.tensor([[length], [length // 2]])).long()
    tokens = torch.randint(_TOKEN_IDS, mask.shape) * mask
    with guarded(what, name):
        vectors = encoder(tokens, mask, packed_positions(mask))
    _check_tensor(what, name, "vectors", vectors, (_SAMPLES, length, width))
    _check_gradients(what, name, encoder, vectors.sum())


def _try_loss(config: Config, task: Task) -> None:
    what, name = "loss", config.loss.name
    look_up(what, name, LOSSES)
    if name in LOSSES:
        return
    loss = ClassificationLoss(name=name, gamma=config.loss.gamma, class_weights=None, task=task)
    logits = torch.randn(_SAMPLES, 3, requires_grad=True)
    for positive in (True,) if task == "multiclass" else (True, False):
        with guarded(what, name):
            losses = loss.of_label(logits, positive=positive)
        _check_tensor(what, name, "losses", losses, logits.shape)
        gradient = None
        if losses.requires_grad:
            (gradient,) = torch.autograd.grad(losses.sum(), logits, allow_unused=True)
        _require(what, name, gradient is not None, "let gradients reach the logits")
        _check_tensor(what, name, "gradients", gradient, logits.shape)


def _require(what: str, name: str, condition: bool, expected: str) -> None:
    require(condition, f"{what} {name!r} must {expected}")


def _size_of(what: str, name: str, encoder: object, attribute: str) -> int:
    """The value of an encoder's attribute that must be a positive integer."""
    _require(what, name, isinstance(encoder, nn.Module), "make an nn.Module")
    size = getattr(encoder, attribute, None)
    if not isinstance(size, int) or size < 1:
        raise UserError(f"{what} {name!r} must have `{attribute}`, an integer of 1 or more; found {size!r}")
    return size


def _check_tensor(what: str, name: str, part: str, value: object, shape: Sequence[int]) -> None:
    subject = f"{what} {name!r}: {part}"
    if not isinstance(value, Tensor):
        raise UserError(f"{subject} must be a tensor {list(shape)}; found {type(value).__name__}")
    same = tuple(value.shape) == tuple(shape)
    require(same, f"{subject} must have the shape {list(shape)}; found {list(value.shape)}")
    require(bool(value.isfinite().all()), f"{subject} are not finite")


def _check_gradients(what: str, name: str, encoder: nn.Module, summed: Tensor) -> None:
    """Refuse parameters without a gradient, which would end the run when gradients are summed over ranks."""
    trained = {key: value for key, value in encoder.named_parameters() if value.requires_grad}
    gradients: Sequence[Tensor | None] = [None] * len(trained)
    if trained and summed.requires_grad:
        with guarded(what, name):
            gradients = torch.autograd.grad(summed, list(trained.values()), allow_unused=True)
    for key, gradient in zip(trained, gradients, strict=True):
        require(
            gradient is not None,
            f"{what} {name!r}: the output that this model uses does not depend on the parameter {key}, which therefore "
            "gets no gradient: remove it, or set requires_grad to False",
        )
