"""Which words of the report the answer came from: attention rolled out, and gradient × input, per token.

The two ask different things. Attention says where the network gathered from, and has no sign; gradient × input
says which tokens raise or lower one class's logit. Neither is a proof of cause.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cxr_dist.data.text import ReportWord
from cxr_dist.evaluate.arrays import Floats
from cxr_dist.model.classifier import Classifier
from cxr_dist.model.inputs import Inputs

_STEPS = 16  # along the way: each costs a forward and a backward pass of the text encoder


def attention_rollout(attentions: Sequence[Tensor]) -> Tensor:
    """Layers' attention [heads, T, T], first to last, to the share [T, T] of each input in each output token.

    Abnar and Zuidema (ACL 2020): heads averaged, half of each layer for its residual connection, layers
    multiplied. Rows sum to 1.
    """
    tokens = attentions[0].shape[-1]
    identity = torch.eye(tokens, dtype=torch.float64, device=attentions[0].device)
    rolled = identity
    for attention in attentions:
        layer = (attention.double().mean(dim=0) + identity) / 2
        rolled = layer / layer.sum(dim=-1, keepdim=True) @ rolled
    return rolled


@torch.no_grad()
def token_attention(model: Classifier, inputs: Inputs) -> Floats | None:
    """Share of each token of one report [T] in what the summary gathers from the report; sums to 1.

    The text encoder's rollout, weighted by how much of each token enters the summary. None where no report token
    enters it, for an encoder whose attention is not between all tokens, and for one of the user's own.
    """
    assert model.text is not None
    assert inputs.attention_mask is not None
    shares = model.summary.token_shares(inputs.attention_mask)
    bert = getattr(model.text, "encoder", None)
    if shares is None or not hasattr(bert, "set_attn_implementation"):
        return None
    with _visible_attention(bert) as encoder:
        found = encoder(
            input_ids=inputs.tokens, attention_mask=inputs.attention_mask, output_attentions=True
        ).attentions
    square = (shares.shape[1],) * 2
    if not found or any(layer.shape[-2:] != square for layer in found):
        return None
    rolled = attention_rollout([layer[0] for layer in found])
    return (shares[0].double() @ rolled).cpu().numpy()


def gradient_times_input(model: Classifier, inputs: Inputs, class_index: int) -> Floats | None:
    """Gradient × input of a class's logit for each token embedding of one report, [T]; below 0 speaks against.

    The gradient is averaged along the way from no embedding to the whole one (integrated gradients: Sundararajan
    et al., ICML 2017), so that the scores sum to about what all tokens together do to the logit. The gradient at
    the end alone may have the wrong sign where the network is saturated. None for an encoder of the user's own
    without `get_input_embeddings`.
    """
    assert model.text is not None
    if not hasattr(model.text, "get_input_embeddings"):
        return None
    with torch.no_grad():
        features = model.encode(inputs)
    total: Tensor | float = 0.0
    for step in range(_STEPS):
        # The way is walked as α = u², slowly at first: after LayerNorm most happens near 0.
        middle = (step + 0.5) / _STEPS
        with _scaled_embeddings(model.text, middle**2) as seen, torch.enable_grad():
            tokens = model.text(inputs.tokens, inputs.attention_mask)
            logit = model.classify(replace(features, text_tokens=tokens))[0, class_index]
        whole, scaled = seen
        (gradient,) = torch.autograd.grad(logit, scaled)
        total = total + (gradient * whole).sum(-1)[0].double() * 2 * middle / _STEPS
    assert isinstance(total, Tensor)
    return total.cpu().numpy()


def per_word(scores: Floats, words: Sequence[ReportWord]) -> Floats:
    """Token scores [T] summed over each word's tokens, [words]; what special tokens hold stays out."""
    return np.array([scores[list(word.tokens)].sum() for word in words], dtype=np.float64)


@contextmanager
def _visible_attention(encoder: Any) -> Iterator[Any]:
    """The encoder with attention computed in the open: the fused kernels do not give their weights away."""
    usual = encoder.config._attn_implementation
    encoder.set_attn_implementation("eager")
    try:
        yield encoder
    finally:
        encoder.set_attn_implementation(usual)


@contextmanager
def _scaled_embeddings(encoder: Any, factor: float) -> Iterator[list[Tensor]]:
    """Inside, a forward pass sees its token embeddings scaled; yields [as they are, scaled: a leaf for gradients]."""
    seen: list[Tensor] = []

    def scale(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        whole = output.detach()
        seen[:] = whole, (factor * whole).requires_grad_()
        return seen[1]

    hook = encoder.get_input_embeddings().register_forward_hook(scale)
    try:
        yield seen
    finally:
        hook.remove()
