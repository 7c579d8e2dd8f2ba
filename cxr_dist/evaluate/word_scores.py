"""Which words of the report the prediction relies on: attention rollout and gradient × input for each token.

Attention says which tokens the network gathers information from, and has no sign; gradient × input says which tokens
raise or lower the logit of a class. Neither proves a cause.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cxr_dist.data.text import ReportTokenizer, ReportWord
from cxr_dist.evaluate.arrays import Floats
from cxr_dist.model.classifier import Classifier
from cxr_dist.model.inputs import Inputs

_STEPS = 16  # of the integral; each costs a forward and a backward pass of the text encoder


@dataclass(frozen=True, kw_only=True)
class WordScores:
    """The words of a report that the model reads, and how much it used each of them."""

    words: Sequence[str]
    attention: Floats | None
    """[words], >= 0: each word's share of the attention; None if the fusion does not use the report."""
    gradient_times_input: Floats
    """[words]: above 0 supports the explained class, below 0 speaks against it."""
    cut: int
    """Number of further words that the model did not read."""

    def to_dict(self) -> dict[str, Any]:
        """The words with their scores, for JSON; the attention of words and special tokens sums to 1."""
        scores = zip(
            self.words,
            [None] * len(self.words) if self.attention is None else self.attention.round(6).tolist(),
            self.gradient_times_input.round(6).tolist(),
            strict=True,
        )
        special = None if self.attention is None else round(1 - float(self.attention.sum()), 6)
        return {
            "words": [{"word": w, "attention": a, "gradient_times_input": g} for w, a, g in scores],
            "attention_on_special_tokens": special,
            "words_cut_off": self.cut,
        }


def word_scores(
    model: Classifier, tokenizer: ReportTokenizer, text: str, inputs: Inputs, class_index: int
) -> WordScores | None:
    """Score the words of the text of one case for a class; None for a text encoder that gives no scores."""
    gradient = gradient_times_input(model, inputs, class_index)
    if gradient is None:
        return None
    words, cut = tokenizer.words(text)
    attention = token_attention(model, inputs)
    return WordScores(
        words=[word.text for word in words],
        attention=None if attention is None else per_word(attention, words),
        gradient_times_input=per_word(gradient, words),
        cut=cut,
    )


def attention_rollout(attentions: Sequence[Tensor]) -> Tensor:
    """The share [T, T] of each input token in each output token, from each layer's attention [heads, T, T].

    Abnar and Zuidema (ACL 2020): heads are averaged, half of each layer is its residual connection, and the layers
    are multiplied from first to last. Rows sum to 1.
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
    """Share [T] of each token of one report in what the summary gathers from the report; sums to 1.

    This is the text encoder's rollout, weighted by the share of each of its outputs in the summary. None if no report
    token enters the summary, if the encoder does not attend between all tokens, and for a user's own encoder.
    """
    assert model.text is not None
    assert inputs.attention_mask is not None
    shares = model.summary.token_shares(inputs.attention_mask)
    bert = getattr(model.text, "encoder", None)
    if shares is None or not hasattr(bert, "set_attn_implementation"):
        return None
    with _visible_attention(bert) as encoder:
        output = encoder(input_ids=inputs.tokens, attention_mask=inputs.attention_mask, output_attentions=True)
    square = (shares.shape[1],) * 2
    if not output.attentions or any(layer.shape[-2:] != square for layer in output.attentions):
        return None
    rolled = attention_rollout([layer[0] for layer in output.attentions])
    return (shares[0].double() @ rolled).cpu().numpy()


def gradient_times_input(model: Classifier, inputs: Inputs, class_index: int) -> Floats | None:
    """Gradient × input of a class's logit for each token embedding of one report, [T]; negative lowers the logit.

    The gradient is averaged along the path from zero to the full embeddings (integrated gradients: Sundararajan et al.,
    ICML 2017), so that the scores sum to about the effect of all tokens on the logit. The gradient at the full
    embeddings alone may have the wrong sign where the network is saturated. None for a user's own encoder without
    `get_input_embeddings`.
    """
    assert model.text is not None
    if not hasattr(model.text, "get_input_embeddings"):
        return None
    with torch.no_grad():
        features = model.encode(inputs)
    total: Tensor | float = 0.0
    for step in range(_STEPS):
        # Midpoint rule with α = u², which samples small α densely: after LayerNorm most of the change is near 0.
        middle = (step + 0.5) / _STEPS
        with _scaled_embeddings(model.text, middle**2) as embeddings, torch.enable_grad():
            tokens = model.text(inputs.tokens, inputs.attention_mask)
            logit = model.classify(replace(features, text_tokens=tokens))[0, class_index]
        whole, scaled = embeddings
        (gradient,) = torch.autograd.grad(logit, scaled)
        total = total + (gradient * whole).sum(-1)[0].double() * 2 * middle / _STEPS
    assert isinstance(total, Tensor)
    return total.cpu().numpy()


def per_word(scores: Floats, words: Sequence[ReportWord]) -> Floats:
    """Token scores [T] summed over the tokens of each word, [words]; special tokens belong to no word."""
    return np.array([scores[list(word.tokens)].sum() for word in words], dtype=np.float64)


@contextmanager
def _visible_attention(encoder: Any) -> Iterator[Any]:
    """The encoder with eager attention, because the fused kernels do not return attention weights."""
    usual = encoder.config._attn_implementation
    encoder.set_attn_implementation("eager")
    try:
        yield encoder
    finally:
        encoder.set_attn_implementation(usual)


@contextmanager
def _scaled_embeddings(encoder: Any, factor: float) -> Iterator[list[Tensor]]:
    """Scale the token embeddings of forward passes within the context.

    Yields a list that the last forward pass fills with its embeddings, unscaled and scaled (a leaf for gradients).
    """
    embeddings: list[Tensor] = []

    def scale(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        whole = output.detach()
        embeddings[:] = whole, (factor * whole).requires_grad_()
        return embeddings[1]

    hook = encoder.get_input_embeddings().register_forward_hook(scale)
    try:
        yield embeddings
    finally:
        hook.remove()
