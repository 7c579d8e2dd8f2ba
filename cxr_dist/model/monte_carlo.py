"""Monte-Carlo dropout (Gal and Ghahramani, ICML 2016): logits of many stochastic passes from the features of a batch.

Parts outside the scope are computed once: both encoders for the scope `head`, the image encoder for `text`. BatchNorm
stays in eval mode. A mask depends only on (seed, sample, pass) and the element.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cxr_dist.config.range import Range, check_ranges
from cxr_dist.errors import UserError
from cxr_dist.model.classifier import Classifier
from cxr_dist.model.dropout import DropoutKeys, KeyedDropout
from cxr_dist.model.fusion import Features
from cxr_dist.model.inputs import Inputs
from cxr_dist.model.view_pooling import of_samples

McScope = Literal["head", "text", "all"]

# The numbers of the first dropout layers of head, text encoder and image encoder. No part has so many layers.
_HEAD_LAYERS, _TEXT_LAYERS, _IMAGE_LAYERS = 0, 1_000, 10_000
_ROWS_AT_ONCE = 4096  # rows in one pass through the head, which need about 64 MB
_TOKENS_AT_ONCE = 4096  # tokens in one pass through the text encoder, whose attention masks need most of the memory
_IMAGES_AT_ONCE = 32


@dataclass(frozen=True, kw_only=True)
class McDropout:
    """The number of stochastic passes, and the layers in which dropout is on."""

    passes: Annotated[int, Range(min=0, max=10_000)] = 0
    scope: McScope = "head"
    """`head` is fusion and head, `text` adds the text encoder, and `all` adds both encoders."""

    def __post_init__(self) -> None:
        check_ranges(self, "mc")


@torch.no_grad()
def mc_logits(
    model: Classifier, inputs: Inputs, features: Features, sample_ids: Tensor, mc: McDropout, seed: int
) -> Tensor:
    """Logits [P, b, C] of P stochastic passes.

    Args:
        model: Must be in eval mode, and is in eval mode afterwards.
        inputs: The inputs of `features`. Only the scopes `text` and `all` read them.
        features: The result of `model.encode` in eval mode.
        sample_ids: int64 [b], the numbers of the samples in the split.

    Raises UserError for the scope `text` if there is no text encoder, and for an encoder that uses random numbers for
    anything but dropout.
    """
    if mc.scope == "text" and model.text is None:
        raise UserError("--mc-scope text: this run's model reads no report; use head or all")
    keys = DropoutKeys.grid(seed=seed, sample_ids=sample_ids, passes=range(mc.passes))
    sample_of = torch.arange(len(sample_ids), device=sample_ids.device).repeat(mc.passes)
    state = _random_state(sample_ids.device)
    summaries = _summaries(model, inputs, features, keys, sample_of, mc.scope)
    logits = []
    with stochastic(model.summary), stochastic(model.head):
        for rows in torch.split(torch.arange(len(sample_of), device=sample_of.device), _ROWS_AT_ONCE):
            with KeyedDropout(keys.select(rows), first_layer=_HEAD_LAYERS):
                logits.append(model.head(model.summary.drop(summaries[rows])))
    if not torch.equal(state, _random_state(sample_ids.device)):
        raise UserError(
            "an encoder of this run uses random numbers other than those of dropout, so its passes cannot be repeated: "
            "use --mc-scope head"
        )
    return torch.cat(logits).view(mc.passes, len(sample_ids), -1)


def _summaries(
    model: Classifier,
    inputs: Inputs,
    features: Features,
    keys: DropoutKeys,
    sample_of: Tensor,
    scope: McScope,
) -> Tensor:
    """The summary [P · b, width] of each row, which is one pass of a sample, before the summary's own dropout."""
    image = model.image if scope == "all" else None
    if getattr(image, "dropout", None) == 0:
        image = None  # another encoder of the user may have dropout anywhere, so it always runs
    text = model.text if scope != "head" else None
    if image is None and text is None:
        once: Tensor = model.summary(features)[sample_of]
        return once
    # Rows are ordered by the length of their reports, so that a chunk needs little padding.
    mask = inputs.attention_mask
    lengths = torch.ones_like(sample_of) if mask is None else mask.sum(1)[sample_of]
    parts, order = [], lengths.argsort(stable=True)
    for rows in _chunks(order, lengths[order].tolist(), _ROWS_AT_ONCE if image is None else _IMAGES_AT_ONCE):
        part, chosen = features.select(sample_of[rows]), keys.select(rows)
        if image is not None:
            tokens, pooled = _image_passes(image, inputs, sample_of[rows], chosen)
            part = replace(part, image_tokens=tokens, image_pooled=pooled)
        if text is not None:
            tokens, mask = _trimmed(inputs, sample_of[rows])
            with stochastic(text), KeyedDropout(chosen, first_layer=_TEXT_LAYERS):
                part = replace(part, text_tokens=text(tokens, mask), attention_mask=mask)
        parts.append(model.summary(part))
    return torch.cat(parts)[order.argsort()]


def _image_passes(encoder: nn.Module, inputs: Inputs, samples: Tensor, keys: DropoutKeys) -> tuple[Tensor, Tensor]:
    """Image tokens of each row, and their mean. Each image of a study has dropout masks of its own."""
    assert inputs.images is not None
    if inputs.view_rows is None:
        with stochastic(encoder), KeyedDropout(keys, first_layer=_IMAGE_LAYERS):
            single: tuple[Tensor, Tensor] = encoder(inputs.images[samples])
            return single
    outputs: list[tuple[Tensor, Tensor]] = []
    rows, start = torch.full_like(inputs.view_rows[samples], -1), 0
    for view, stored in enumerate(inputs.view_rows[samples].T):
        present = (stored >= 0).nonzero()[:, 0]
        if len(present):
            rows[present, view] = torch.arange(start, start + len(present), device=rows.device)
            start += len(present)
            with (
                stochastic(encoder),
                KeyedDropout(keys.select(present), first_layer=(view + 1) * _IMAGE_LAYERS),
            ):
                outputs.append(encoder(inputs.images[stored[present]]))
    tokens, pooled = map(torch.cat, zip(*outputs, strict=True))
    return of_samples(tokens, pooled, rows)


def _chunks(order: Tensor, lengths: list[int], limit: int) -> Iterator[Tensor]:
    """Split rows that are ordered by length into chunks for an encoder, of at most `limit` rows each."""
    start = 0
    for end in range(1, len(order) + 1):
        if end == len(order) or (end - start + 1) * lengths[end] > _TOKENS_AT_ONCE or end - start == limit:
            yield order[start:end]
            start = end


def _trimmed(inputs: Inputs, samples: Tensor) -> tuple[Tensor, Tensor]:
    """Token ids and mask of samples, without the columns that are padding in all samples."""
    assert inputs.tokens is not None
    assert inputs.attention_mask is not None
    mask = inputs.attention_mask[samples]
    longest = int(mask.sum(1).max())
    return inputs.tokens[samples, :longest], mask[:, :longest]


@contextmanager
def stochastic(module: nn.Module) -> Iterator[None]:
    """A context in which a module is in training mode, except its BatchNorm layers, so that its dropout is on."""
    before = {part: part.training for part in module.modules()}
    for part in before:
        part.training = part.training if isinstance(part, _BatchNorm) else True
    try:
        yield
    finally:
        for part, training in before.items():
            part.training = training


def _random_state(device: torch.device) -> Tensor:
    states = [torch.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return torch.cat(states)
