"""Monte-Carlo dropout (Gal and Ghahramani, ICML 2016): features of a batch in, logits of many passes out.

What a scope leaves still is computed once: with `head` both encoders, with `text` the film's. BatchNorm stays in
eval mode, and a mask follows from (seed, sample, pass) alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cxr_dist.errors import UserError
from cxr_dist.model.classifier import Classifier
from cxr_dist.model.dropout import DropoutKeys, KeyedDropout
from cxr_dist.model.fusion import Features
from cxr_dist.model.image_encoder import ImageEncoder
from cxr_dist.model.inputs import Inputs
from cxr_dist.model.view_pooling import of_samples

McScope = Literal["head", "text", "all"]

# The first number of a part's dropouts; no part has so many.
_HEAD_LAYERS, _TEXT_LAYERS, _IMAGE_LAYERS = 0, 1_000, 10_000
_ROWS_AT_ONCE = 4096  # passes of samples through the head together: about 64 MB of float32 and masks
_TOKENS_AT_ONCE = 4096  # the same through the text encoder: its attention masks are what takes the memory
_FILMS_AT_ONCE = 32


@dataclass(frozen=True, kw_only=True)
class McDropout:
    """How many stochastic passes, and where dropout acts in them."""

    passes: int = 0
    scope: McScope = "head"
    """`head`: fusion and head. `text`: the text encoder too. `all`: both encoders too."""


@torch.no_grad()
def mc_logits(
    model: Classifier, inputs: Inputs, features: Features, sample_ids: Tensor, mc: McDropout, seed: int
) -> Tensor:
    """Logits [P, b, C] of P stochastic passes.

    Args:
        model: in eval mode; it is in eval mode again afterwards.
        inputs: what `features` were made from; read by the scopes `text` and `all` only.
        features: of `model.encode` in eval mode.
        sample_ids: int64 [b], the samples' numbers in the split.

    Raises UserError for scope `text` without a text encoder, and for an encoder that draws random numbers
    otherwise than by dropout.
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
            "an encoder of this run draws random numbers otherwise than by dropout, so that its passes would not "
            "repeat: use --mc-scope head"
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
    """The summary of each row (pass of a sample), [P · b, width], before its own dropout."""
    image = model.image if scope == "all" else None
    if isinstance(image, ImageEncoder) and image.dropout == 0:
        image = None  # while an encoder of the user's own may have dropout anywhere
    text = model.text if scope != "head" else None
    if image is None and text is None:
        once: Tensor = model.summary(features)[sample_of]
        return once
    # Reports of like length together: less padding to compute.
    lengths = _lengths(inputs.attention_mask, sample_of)
    parts, order = [], lengths.argsort(stable=True)
    for rows in _chunks(order, lengths[order].tolist(), films=image is not None):
        part, chosen = features.select(sample_of[rows]), keys.select(rows)
        if image is not None:
            tokens, pooled = _films(image, inputs, sample_of[rows], chosen)
            part = replace(part, image_tokens=tokens, image_pooled=pooled)
        if text is not None:
            tokens, mask = _trimmed(inputs, sample_of[rows])
            with stochastic(text), KeyedDropout(chosen, first_layer=_TEXT_LAYERS):
                part = replace(part, text_tokens=text(tokens, mask), attention_mask=mask)
        parts.append(model.summary(part))
    return torch.cat(parts)[order.argsort()]


def _films(image: nn.Module, inputs: Inputs, samples: Tensor, keys: DropoutKeys) -> tuple[Tensor, Tensor]:
    """Image tokens and their mean of each row, a pass of a sample; each film of a study has masks of its own."""
    assert inputs.images is not None
    if inputs.view_rows is None:
        with stochastic(image), KeyedDropout(keys, first_layer=_IMAGE_LAYERS):
            alone: tuple[Tensor, Tensor] = image(inputs.images[samples])
            return alone
    tokens, pooled = [], []
    rows, start = torch.full_like(inputs.view_rows[samples], -1), 0
    for view, stored in enumerate(inputs.view_rows[samples].T):
        there = (stored >= 0).nonzero()[:, 0]
        if len(there):
            rows[there, view] = torch.arange(start, start + len(there), device=rows.device)
            start += len(there)
            with stochastic(image), KeyedDropout(keys.select(there), first_layer=(view + 1) * _IMAGE_LAYERS):
                found = image(inputs.images[stored[there]])
            tokens.append(found[0])
            pooled.append(found[1])
    return of_samples(torch.cat(tokens), torch.cat(pooled), rows)


def _lengths(attention_mask: Tensor | None, sample_of: Tensor) -> Tensor:
    """Tokens of each row's report, [P · b]; all 1 without reports."""
    return torch.ones_like(sample_of) if attention_mask is None else attention_mask.sum(1)[sample_of]


def _chunks(order: Tensor, lengths: list[int], *, films: bool) -> Iterator[Tensor]:
    """Rows that go through an encoder together, from rows in order of their lengths: a function of the batch alone."""
    limit = _FILMS_AT_ONCE if films else _ROWS_AT_ONCE
    start = 0
    for end in range(1, len(order) + 1):
        full = end == len(order) or (end - start + 1) * lengths[end] > _TOKENS_AT_ONCE or end - start == limit
        if full:
            yield order[start:end]
            start = end


def _trimmed(inputs: Inputs, samples: Tensor) -> tuple[Tensor, Tensor]:
    """Token ids and mask of samples, without the columns that are padding in all of them."""
    assert inputs.tokens is not None
    assert inputs.attention_mask is not None
    mask = inputs.attention_mask[samples]
    longest = int(mask.sum(1).max())
    return inputs.tokens[samples, :longest], mask[:, :longest]


@contextmanager
def stochastic(module: nn.Module) -> Iterator[None]:
    """Training mode, for its dropout, with BatchNorm left as it was; all as before on leaving."""
    before = {part: part.training for part in module.modules()}
    for part in before:
        part.training = part.training if isinstance(part, _BatchNorm) else True
    try:
        yield
    finally:
        for part, training in before.items():
            part.training = training


def _random_state(device: torch.device) -> Tensor:
    on_device = (
        torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.empty(0, dtype=torch.uint8)
    )
    return torch.cat([torch.get_rng_state(), on_device])
