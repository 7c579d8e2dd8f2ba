"""The network's parts that a user wrote, tried on a few made-up samples on the CPU before a run takes any device.

Image encoders are described in image_encoder.py, losses in losses.py. A text encoder of the user's own is MODULE:NAME
or FILE.py:NAME, where NAME(folder: Path, config: ModelConfig) makes an nn.Module with `width: int` and `max_tokens:
int`, whose forward takes token ids and mask, int64 [b, T], and `positions` (int64 [N], the places in b · T whose
vectors count; others may hold anything finite), and returns vectors [b, T, width]. FOLDER/config.json has the
`vocab_size` of the tokenizer, which is made from the training reports as for `tiny`. NAME may have an attribute
`gradient_checkpointing = True` where the encoder heeds `config.checkpoints_text`; the encoder may have
`get_input_embeddings()`, as transformers' models do, for the word scores of `cxr-dist predict`.
"""

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from cxr_dist.config.lookup import guarded, look_up
from cxr_dist.config.model import ModelConfig
from cxr_dist.config.run import Config
from cxr_dist.data.packing import packed_positions
from cxr_dist.data.text import PAD_MULTIPLE, prepare_text_folder
from cxr_dist.errors import UserError, require
from cxr_dist.format.manifest import Task
from cxr_dist.model.classifier import build_text_encoder
from cxr_dist.model.image_encoder import image_encoder_kind
from cxr_dist.model.losses import LOSSES, ClassificationLoss

_SAMPLES = 2
_TOKEN_IDS = 5  # the least that a tokenizer has: its special tokens


def check_parts(config: Config, task: Task) -> None:
    """Try the encoders and the loss that a run names, where they are the user's own.

    Raises UserError for a name that leads nowhere, and for a part that breaks its protocol.
    """
    model = config.model
    recomputed = recomputable(model)
    for kind, asked, name in (
        ("image", model.checkpoints_image, model.image_encoder),
        ("text", model.checkpoints_text, model.text_encoder),
    ):
        require(
            not asked or kind in recomputed,
            f"{kind} encoder {name!r} has no attribute gradient_checkpointing, so it cannot recompute activations: set "
            "--model.gradient-checkpointing to auto, or leave it off",
        )
    with torch.random.fork_rng(devices=[]):
        if model.uses_image and ":" in model.image_encoder:
            _try_image_encoder(model, config.data.image_size)
        if model.uses_text and model.has_own_text_encoder:
            _try_text_encoder(model, config.data.max_tokens)
        _try_loss(config, task)


def recomputable(config: ModelConfig) -> list[str]:
    """Which of the model's encoders, "text" and "image", can compute activations again in the backward pass."""
    found = []
    if config.uses_text:
        own = config.has_own_text_encoder
        part = look_up("text encoder", config.text_encoder, {}) if own else None
        found += ["text"] if not own or getattr(part, "gradient_checkpointing", False) else []
    if config.uses_image and image_encoder_kind(config.image_encoder).recomputes:
        found.append("image")
    return found


def _try_image_encoder(config: ModelConfig, image_size: int) -> None:
    what, name = "image encoder", config.image_encoder
    kind = image_encoder_kind(name)
    encoder = kind.build(dataclasses.replace(config, pretrained=False))
    width = _size_of(what, name, encoder, "width")
    _require(what, name, kind.levels.deviation > 0, "have a `deviation` above 0, if it has one")
    films = torch.randint(256, (_SAMPLES, 1, image_size, image_size), dtype=torch.uint8)
    with guarded(what, name):
        found = encoder(kind.levels.normalise(films))
    _require(what, name, isinstance(found, tuple) and len(found) == 2, "return a pair: tokens and pooled")
    tokens, pooled = found
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
        made = dataclasses.replace(config, pretrained=False)
        encoder = build_text_encoder(made, Path(folder) / "text_encoder")
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
            found = loss.of_label(logits, positive=positive)
        _check_tensor(what, name, "losses", found, logits.shape)
        gradient = None
        if found.requires_grad:
            (gradient,) = torch.autograd.grad(found.sum(), logits, allow_unused=True)
        _require(what, name, gradient is not None, "let gradients reach the logits")
        _check_tensor(what, name, "gradients", gradient, logits.shape)


def _require(what: str, name: str, condition: bool, expected: str) -> None:
    require(condition, f"{what} {name!r} must {expected}")


def _size_of(what: str, name: str, encoder: object, attribute: str) -> int:
    """The encoder's attribute, a number of 1 or more."""
    _require(what, name, isinstance(encoder, nn.Module), "make an nn.Module")
    size = getattr(encoder, attribute, None)
    if not isinstance(size, int) or size < 1:
        raise UserError(
            f"{what} {name!r} must have `{attribute}`, a whole number of 1 or more; found {size!r}"
        )
    return size


def _check_tensor(what: str, name: str, part: str, found: object, shape: Sequence[int]) -> None:
    if not isinstance(found, Tensor):
        raise UserError(
            f"{what} {name!r}: {part} must be a tensor {list(shape)}; found {type(found).__name__}"
        )
    require(
        tuple(found.shape) == tuple(shape),
        f"{what} {name!r}: {part} must have the shape {list(shape)}; found {list(found.shape)}",
    )
    require(bool(found.isfinite().all()), f"{what} {name!r}: {part} are not finite")


def _check_gradients(what: str, name: str, encoder: nn.Module, summed: Tensor) -> None:
    """A parameter without a gradient would end the run when gradients are summed over ranks."""
    trained = {key: value for key, value in encoder.named_parameters() if value.requires_grad}
    found: Sequence[Tensor | None] = [None] * len(trained)
    if trained and summed.requires_grad:
        with guarded(what, name):
            found = torch.autograd.grad(summed, list(trained.values()), allow_unused=True)
    for key, gradient in zip(trained, found, strict=True):
        require(
            gradient is not None,
            f"{what} {name!r}: its parameter {key} does not enter what this model uses of its output, so it gets no "
            "gradient: leave it out, or set requires_grad to False",
        )
