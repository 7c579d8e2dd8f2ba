"""Which words of the report the answer came from: attention rolled out, and gradient × input, per token.

The two ask different things. Attention says where the network gathered from, and has no sign; gradient × input
says which tokens raise or lower one class's logit, to first order. Neither is a proof of cause.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cxr_dist.data.text import ReportWord
from cxr_dist.model.classifier import Classifier
from cxr_dist.model.monte_carlo import Inputs

Floats = NDArray[np.float64]


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
    enters it, and for an encoder whose attention is not between all tokens.
    """
    assert model.text is not None
    assert inputs.attention_mask is not None
    shares = model.summary.token_shares(inputs.attention_mask)
    if shares is None:
        return None
    with _visible_attention(model.text.encoder) as encoder:
        found = encoder(
            input_ids=inputs.tokens, attention_mask=inputs.attention_mask, output_attentions=True
        ).attentions
    square = (shares.shape[1],) * 2
    if not found or any(layer.shape[-2:] != square for layer in found):
        return None
    rolled = attention_rollout([layer[0] for layer in found])
    return (shares[0].double() @ rolled).cpu().numpy()


def gradient_times_input(model: Classifier, inputs: Inputs, class_index: int) -> Floats:
    """Σ over the embedding of (∂ logit / ∂ token embedding) · token embedding, [T]; negative speaks against.

    Shrikumar et al. 2017 (arXiv 1605.01713). In a model that is linear in the embeddings the scores sum to the
    logit less its value without any token.
    """
    assert model.text is not None
    with _recorded_embeddings(model.text.encoder) as recorded, torch.enable_grad():
        logit = model(inputs.images, inputs.tokens, inputs.attention_mask)[0, class_index]
    (embeddings,) = recorded
    (gradient,) = torch.autograd.grad(logit, embeddings, allow_unused=True)
    if gradient is None:  # the fusion takes nothing of the report
        return np.zeros(embeddings.shape[1])
    return (gradient * embeddings.detach()).sum(-1)[0].double().cpu().numpy()


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
def _recorded_embeddings(encoder: Any) -> Iterator[list[Tensor]]:
    """Token embeddings of the forward pass inside, as leaves that gradients can be taken for."""
    recorded: list[Tensor] = []

    def record(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        recorded.append(output.detach().requires_grad_())
        return recorded[-1]

    hook = encoder.get_input_embeddings().register_forward_hook(record)
    try:
        yield recorded
    finally:
        hook.remove()
