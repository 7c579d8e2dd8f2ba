"""Word scores: attention sums to 1, gradient × input is exact for a linear model, and a planted word ranks first."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from cxr_dist.config.model import ModelConfig
from cxr_dist.data.text import ReportWord
from cxr_dist.evaluate.word_scores import attention_rollout, gradient_times_input, per_word, token_attention
from cxr_dist.model.classifier import Classifier, build_classifier
from cxr_dist.model.inputs import Inputs

BERT = {
    "model_type": "bert",
    "vocab_size": 40,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}
DECISIVE = 7


def build(folder: Path, mode: str = "text", model: dict[str, Any] | None = None, **fields: Any) -> Classifier:
    (folder / "config.json").write_text(json.dumps(model or BERT))
    narrow = {"image_encoder": "densenet-narrow", "fusion_dim": 16, "fusion_heads": 4, "pretrained": False}
    torch.manual_seed(0)
    return build_classifier(ModelConfig(mode=mode, **(narrow | fields)), 2, folder).eval()


def report(*tokens: int, padding: int = 0, image: bool = False) -> Inputs:
    ids = torch.tensor([[*tokens, *[0] * padding]])
    images = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(1)) if image else None
    return Inputs(images=images, tokens=ids, attention_mask=(ids != 0).long())


@given(st.integers(1, 4), st.integers(1, 3), st.integers(1, 8), st.integers(0, 2**31))
def test_rows_of_a_rollout_sum_to_one(layers: int, heads: int, tokens: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    attentions = [(5 * torch.randn(heads, tokens, tokens, generator=generator)).softmax(-1) for _ in range(layers)]
    rolled = attention_rollout(attentions)
    assert (rolled >= 0).all()
    torch.testing.assert_close(rolled.sum(-1), torch.ones(tokens, dtype=torch.float64), rtol=0, atol=1e-6)


def test_a_rollout_by_hand() -> None:
    """Two layers with one head on two tokens: each is averaged with the identity, and the last is multiplied first."""
    first, second = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]), torch.tensor([[[1.0, 0.0], [0.5, 0.5]]])
    expected = torch.tensor([[1.0, 0.0], [0.25, 0.75]]) @ torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    torch.testing.assert_close(attention_rollout([first, second]).float(), expected)


@pytest.mark.parametrize("model", ["bert", "roberta", "distilbert"])
@pytest.mark.parametrize("mode", ["text", "fused"])
def test_attention_goes_to_real_tokens_and_the_model_is_left_unchanged(tmp_path: Path, mode: str, model: str) -> None:
    settings = BERT | {"model_type": model}
    if model == "distilbert":
        settings |= {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}
    classifier = build(tmp_path, mode, settings)
    assert classifier.text is not None
    inputs = report(2, 9, 11, 3, padding=4, image=mode == "fused")
    before = classifier(*inputs)
    attention = classifier.text.encoder.config._attn_implementation
    result = token_attention(classifier, inputs)
    assert result is not None
    assert result[:4].min() > 0
    assert np.abs(result[4:]).max() == 0
    assert result.sum() == pytest.approx(1, abs=1e-6)
    assert torch.equal(classifier(*inputs), before)
    assert classifier.text.encoder.config._attn_implementation == attention != "eager"


def test_padding_does_not_change_scores(tmp_path: Path) -> None:
    classifier = build(tmp_path).double()
    short, padded = report(2, 9, 11, 3), report(2, 9, 11, 3, padding=5)
    for scores in (
        lambda i: token_attention(classifier, i),
        lambda i: gradient_times_input(classifier, i, 1),
    ):
        np.testing.assert_allclose(scores(padded)[:4], scores(short), atol=1e-9)
        assert not scores(padded)[4:].any()


def test_a_fusion_that_ignores_the_report_has_no_attention_and_zero_gradients(tmp_path: Path) -> None:
    classifier = build(tmp_path, "fused", fusion="pooled")
    inputs = report(2, 9, 11, 3, image=True)
    assert token_attention(classifier, inputs) is None
    np.testing.assert_allclose(gradient_times_input(classifier, inputs, 0), 0, atol=1e-9)


class LinearEncoder(nn.Module):
    """A user's own encoder whose token vectors are the token embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(40, 6)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings

    def forward(self, tokens: Tensor, _mask: Tensor, _positions: Tensor | None = None) -> Tensor:
        vectors: Tensor = self.embeddings(tokens)
        return vectors


def test_in_a_linear_model_the_scores_sum_to_the_logit_minus_the_bias(tmp_path: Path) -> None:
    linear = build(tmp_path)
    linear.text = LinearEncoder()  # type: ignore[assignment]
    linear.summary.projection = nn.Linear(6, 5)
    linear.head = nn.Linear(5, 3)  # type: ignore[assignment]
    inputs = report(2, 9, 9, 11, 3, padding=2)
    with torch.no_grad():
        logits = linear(None, inputs.tokens, inputs.attention_mask)[0]
        bias = linear.head(linear.summary.projection.bias)
    for label in range(3):
        scores = gradient_times_input(linear, inputs, label)
        assert scores.sum() == pytest.approx(float(logits[label] - bias[label]), abs=1e-6)
        assert scores[1] == pytest.approx(scores[2])  # the same token twice
        assert not scores[5:].any()


def train_to_find(classifier: Classifier, steps: int) -> torch.Generator:
    """Train until saturation on reports of which class 1 contains the decisive word."""
    classifier.train()
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(classifier.parameters(), lr=3e-3)
    for _ in range(steps):
        tokens = torch.randint(10, 40, (32, 12), generator=generator)
        tokens[:, 0], tokens[:, -1], labels = 2, 3, torch.arange(32) % 2
        places = torch.randint(1, 11, (32,), generator=generator)
        tokens[labels == 1, places[labels == 1]] = DECISIVE
        loss = functional.cross_entropy(classifier(None, tokens, torch.ones_like(tokens)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.01
    classifier.eval()
    return generator


def test_a_planted_decisive_word_has_the_highest_score_and_scores_sum_to_the_effect(tmp_path: Path) -> None:
    classifier = build(tmp_path)
    generator = train_to_find(classifier, steps=80)
    for place in range(1, 11):
        tokens = torch.randint(10, 40, (10,), generator=generator).tolist()
        tokens[place - 1] = DECISIVE
        inputs = report(2, *tokens, 3)
        scores, against = (gradient_times_input(classifier, inputs, label) for label in (1, 0))
        assert scores.argmax() == place
        assert against.argmin() == place  # it lowers the logit of the other class
        effect = logit_of(classifier, inputs) - logit_without_words(classifier, inputs)
        assert scores.sum() == pytest.approx(effect, rel=0.2)  # 16 steps along a steep path


@torch.no_grad()
def logit_of(classifier: Classifier, inputs: Inputs) -> float:
    return float(classifier(*inputs)[0, 1])


@torch.no_grad()
def logit_without_words(classifier: Classifier, inputs: Inputs) -> float:
    embeddings = classifier.text.encoder.get_input_embeddings()  # type: ignore[union-attr, operator]
    kept = embeddings.weight.data.clone()
    embeddings.weight.data.zero_()
    try:
        return logit_of(classifier, inputs)
    finally:
        embeddings.weight.data.copy_(kept)


def test_the_score_of_a_word_is_the_sum_over_its_tokens() -> None:
    words = [ReportWord(text="large", tokens=(1,)), ReportWord(text="effusions", tokens=(2, 3))]
    assert per_word(np.array([9.0, 1.0, 2.0, 4.0, 9.0]), words).tolist() == [1.0, 6.0]
    assert per_word(np.array([9.0, 9.0]), []).shape == (0,)
