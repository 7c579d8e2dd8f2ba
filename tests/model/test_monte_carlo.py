"""Monte-Carlo dropout: which parts each scope repeats, and that batch, padding and order do not matter."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from cxr_dist.errors import UserError
from cxr_dist.model import monte_carlo
from cxr_dist.model.classifier import Classifier
from cxr_dist.model.fusion import Features
from cxr_dist.model.inputs import Inputs
from cxr_dist.model.monte_carlo import McDropout, mc_logits

Build = Callable[..., Classifier]
MakeBatch = Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]]
SCOPES = [
    ({"mode": "image"}, "head"),
    ({"mode": "image", "image_dropout": 0.2}, "all"),
    ({"mode": "text"}, "head"),
    ({"mode": "text"}, "text"),
    ({"mode": "fused"}, "head"),
    ({"mode": "fused"}, "text"),
    ({"mode": "fused", "image_dropout": 0.2}, "all"),
    ({"mode": "fused", "fusion": "pooled"}, "text"),
]


def passes_of(
    model: Classifier,
    batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    ids: torch.Tensor,
    mc: McDropout,
    seed: int = 5,
) -> torch.Tensor:
    inputs = Inputs(*batch) if model.text is not None else Inputs(batch[0])
    with torch.no_grad():
        features = model.encode(inputs)
    return mc_logits(model, inputs, features, ids, mc, seed)


@pytest.mark.parametrize(("fields", "scope"), SCOPES)
def test_a_sample_has_the_same_passes_in_any_batch(
    build: Build, make_batch: MakeBatch, fields: dict[str, Any], scope: Any
) -> None:
    model, batch, ids = build(**fields).eval(), make_batch(6), torch.tensor([40, 3, 17, 8, 0, 99])
    mc = McDropout(passes=6, scope=scope)
    whole = passes_of(model, batch, ids, mc)
    assert whole.shape == (6, 6, 3)
    parts = [
        passes_of(model, tuple(tensor[rows] for tensor in batch), ids[rows], mc)  # type: ignore[arg-type]
        for rows in ([4], [2, 0], [5, 1, 3])
    ]
    in_order = torch.cat(parts, dim=1)[:, torch.tensor([4, 2, 0, 5, 1, 3]).argsort()]
    torch.testing.assert_close(in_order, whole, rtol=0, atol=1e-5)
    assert torch.equal(passes_of(model, batch, ids, mc), whole)


@pytest.mark.parametrize("scope", ["text", "all"])
def test_more_padding_and_smaller_chunks_change_nothing(
    build: Build, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch, scope: Any
) -> None:
    model, (images, tokens, mask), ids = build(image_dropout=0.2).eval(), make_batch(5), torch.arange(5)
    mc = McDropout(passes=7, scope=scope)
    whole = passes_of(model, (images, tokens, mask), ids, mc)
    wider = tuple(nn.functional.pad(part, (0, 9)) for part in (tokens, mask))
    torch.testing.assert_close(passes_of(model, (images, *wider), ids, mc), whole, rtol=0, atol=1e-5)
    monkeypatch.setattr(monte_carlo, "_ROWS_AT_ONCE", 3)
    monkeypatch.setattr(monte_carlo, "_TOKENS_AT_ONCE", 40)
    torch.testing.assert_close(passes_of(model, (images, tokens, mask), ids, mc), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("fields", "scope"), SCOPES)
def test_passes_differ_by_pass_sample_and_seed(build: Build, fields: dict[str, Any], scope: Any) -> None:
    """Two copies of one sample have different ids, so that only dropout can differ between them."""
    model = build(**fields).eval()
    images = torch.randn(1, 1, 64, 64).expand(2, -1, -1, -1)
    tokens = torch.randint(5, 60, (1, 16)).expand(2, -1)
    batch, mc = (images, tokens, torch.ones_like(tokens)), McDropout(passes=20, scope=scope)
    logits = passes_of(model, batch, torch.tensor([1, 2]), mc)
    assert len(torch.unique(logits.flatten(0, 1), dim=0)) == 40
    assert not torch.equal(passes_of(model, batch, torch.tensor([1, 2]), mc, seed=6), logits)


def test_a_wider_scope_makes_more_parts_stochastic(build: Build, make_batch: MakeBatch) -> None:
    """Without dropout in fusion and head, only the encoders are stochastic."""
    still = {"fusion_dropout": 0.0, "head_dropout": (0.0, 0.0)}
    batch, ids = make_batch(), torch.arange(4)
    model = build(**still, image_dropout=0.2).eval()
    eager = model(*batch)
    moved = {scope: passes_of(model, batch, ids, McDropout(passes=3, scope=scope)) for scope in ("head", "text", "all")}
    torch.testing.assert_close(moved["head"], eager.expand(3, -1, -1), rtol=0, atol=1e-6)
    assert (moved["text"].std(0) > 0).all()
    assert not torch.equal(moved["text"], moved["all"])


@pytest.mark.parametrize("kind", ["attention_probs_dropout_prob", "hidden_dropout_prob"])
def test_the_text_encoders_own_dropouts_are_on(build: Build, make_batch: MakeBatch, kind: str) -> None:
    """Each kind of dropout has an effect if the other kind and the dropout in fusion and head are off."""
    model, batch = build(fusion_dropout=0.0, head_dropout=(0.0, 0.0)).eval(), make_batch()
    encoder: Any = model.text.encoder
    for name, part in encoder.named_modules():
        if isinstance(part, nn.Dropout):
            in_attention = name.endswith("attention.self.dropout")
            part.p = 0.5 if in_attention == (kind == "attention_probs_dropout_prob") else 0.0
    logits = passes_of(model, batch, torch.arange(4), McDropout(passes=8, scope="text"))
    assert (logits.std(0) > 0).all()


def test_batchnorm_does_not_change_and_the_model_is_in_eval_mode_afterwards(
    build: Build, make_batch: MakeBatch
) -> None:
    model, batch = build(image_dropout=0.3).eval(), make_batch()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    eager = model(*batch)
    passes_of(model, batch, torch.arange(4), McDropout(passes=3, scope="all"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(part.training for part in model.modules())
    assert torch.equal(model(*batch), eager)


def test_encoders_outside_the_scope_run_once(build: Build, make_batch: MakeBatch) -> None:
    model, batch = build().eval(), make_batch(4)
    seen = {"image": 0, "text": 0}
    model.image.register_forward_hook(lambda module, args, _: seen.update(image=seen["image"] + len(args[0])))
    model.text.register_forward_hook(lambda module, args, _: seen.update(text=seen["text"] + len(args[0])))
    passes_of(model, batch, torch.arange(4), McDropout(passes=30, scope="head"))
    assert seen == {"image": 4, "text": 4}
    passes_of(model, batch, torch.arange(4), McDropout(passes=30, scope="text"))
    assert seen == {"image": 8, "text": 8 + 120}
    passes_of(model, batch, torch.arange(4), McDropout(passes=30, scope="all"))  # DenseNet without dropout
    assert seen == {"image": 12, "text": 132 + 120}


def test_an_encoder_that_uses_other_random_numbers_is_refused(build: Build, make_batch: MakeBatch) -> None:
    model = build().eval()
    model.text.register_forward_pre_hook(lambda *_: torch.rand(1) and None)
    with pytest.raises(UserError, match="random numbers other than those of dropout"):
        passes_of(model, make_batch(), torch.arange(4), McDropout(passes=2, scope="text"))


def test_scope_text_without_a_report_is_refused(build: Build, make_batch: MakeBatch) -> None:
    with pytest.raises(UserError, match="reads no report; use head or all"):
        passes_of(build(mode="image").eval(), make_batch(), torch.arange(4), McDropout(passes=2, scope="text"))


def test_the_mean_of_many_passes_approaches_a_linear_head_without_dropout(build: Build) -> None:
    model = build(mode="image", head_dropout=(0.0, 0.3)).double().eval()  # dropout before a linear layer only
    pooled = torch.rand(1, model.image.width, dtype=torch.float64)
    same = Features(image_tokens=None, image_pooled=pooled, text_tokens=None, attention_mask=None)
    nothing = Inputs()
    logits = mc_logits(model, nothing, same, torch.tensor([0]), McDropout(passes=4000), seed=1)
    error = (logits.mean(0) - model.classify(same)).abs()
    assert (error < 4.5 * logits.std(0) / 4000**0.5).all()
