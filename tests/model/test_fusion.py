"""The fusions: padding has no effect, attention is a distribution, and only the token fusion depends on the report."""

import pytest
import torch

from cxr_dist.model.fusion import Features, Fusion, PooledFusion, TextSummary, TokenFusion


def make(kind: type[Fusion]) -> Fusion:
    torch.manual_seed(0)
    return kind(image_width=12, text_width=8, dimension=16, heads=4, dropout=0.5).double().eval()


def features(mask: torch.Tensor, seed: int = 0) -> Features:
    generator = torch.Generator().manual_seed(seed)
    image_tokens = torch.randn(len(mask), 9, 12, generator=generator, dtype=torch.float64)
    return Features(
        image_tokens=image_tokens,
        image_pooled=image_tokens.mean(1),
        text_tokens=torch.randn(*mask.shape, 8, generator=generator, dtype=torch.float64),
        attention_mask=mask,
    )


def with_text(old: Features, text_tokens: torch.Tensor) -> Features:
    return Features(
        image_tokens=old.image_tokens,
        image_pooled=old.image_pooled,
        text_tokens=text_tokens,
        attention_mask=old.attention_mask,
    )


MASK = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]])


@pytest.mark.parametrize("kind", [TokenFusion, PooledFusion])
def test_the_summary_is_the_concatenation_of_image_and_attended(kind: type[Fusion]) -> None:
    fusion, seen = make(kind), features(MASK)
    summary = fusion(seen)
    assert summary.shape == (2, fusion.width) == (2, 32)
    torch.testing.assert_close(summary[:, :16], fusion.image_projection(seen.image_pooled))


@pytest.mark.parametrize("kind", [TokenFusion, PooledFusion])
def test_the_values_of_padding_do_not_matter(kind: type[Fusion]) -> None:
    fusion, seen = make(kind), features(MASK)
    assert seen.text_tokens is not None
    other = torch.where(MASK.bool().unsqueeze(-1), seen.text_tokens, torch.full_like(seen.text_tokens, 50.0))
    torch.testing.assert_close(fusion(with_text(seen, other)), fusion(seen), rtol=0, atol=0)


def test_token_attention_is_a_distribution_over_image_tokens() -> None:
    weights = make(TokenFusion).attention_weights(features(MASK))
    assert weights.shape == (2, 5, 9)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 5, dtype=torch.float64))


def test_an_image_token_that_matches_the_query_gets_the_attention() -> None:
    fusion, seen = make(TokenFusion), features(MASK)
    with torch.no_grad():  # keys and queries lie in one direction of the shared space
        for projection in (fusion.image_projection, fusion.text_projection):
            torch.nn.init.zeros_(projection.weight)
            torch.nn.init.zeros_(projection.bias)
            projection.weight[:, 0] = 1.0
        fusion.attention.in_proj_weight.copy_(torch.eye(16).repeat(3, 1))
        assert seen.image_tokens is not None
        seen.image_tokens[:, :, 0] = 0.0
        seen.image_tokens[:, 4, 0] = 10.0
        seen.text_tokens[:, :, 0] = 10.0
    assert (fusion.attention_weights(seen)[:, :, 4] > 0.99).all()


def test_the_report_changes_the_token_fusion_but_not_the_pooled_fusion() -> None:
    seen = features(MASK)
    other = with_text(seen, features(MASK, seed=1).text_tokens)
    tokens, pooled = make(TokenFusion), make(PooledFusion)
    assert (tokens(seen) - tokens(other)).abs().max() > 0.1
    torch.testing.assert_close(pooled(seen), pooled(other), rtol=0, atol=0)
    assert torch.equal(pooled.attention_weights(seen), torch.ones(2, 1, 1, dtype=torch.float64))


def test_the_report_matters_even_if_all_image_tokens_are_equal() -> None:
    seen = features(MASK)
    assert seen.image_tokens is not None
    seen.image_tokens[:] = 1.0  # attention then has no effect
    other = with_text(seen, features(MASK, seed=1).text_tokens)
    assert (make(TokenFusion)(seen) - make(TokenFusion)(other)).abs().max() > 0.1


def test_dropout_is_applied_to_the_attended_half_only() -> None:
    fusion = make(TokenFusion).train()
    dropped = fusion.drop(torch.ones(50, 32))
    assert torch.equal(dropped[:, :16], torch.ones(50, 16))
    assert set(dropped[:, 16:].unique().tolist()) == {0.0, 2.0}


def test_token_shares_are_the_weights_of_the_tokens_in_the_summary() -> None:
    torch.manual_seed(0)
    summary, seen = TextSummary(8, 16).double(), features(MASK)
    assert seen.text_tokens is not None
    shares = summary.token_shares(MASK)
    mixed = (shares.double().unsqueeze(-1) * summary.projection(seen.text_tokens)).sum(1)
    torch.testing.assert_close(mixed, summary(seen), rtol=1e-6, atol=1e-6)
    assert torch.equal(make(TokenFusion).token_shares(MASK), shares)
    assert make(PooledFusion).token_shares(MASK) is None  # its output does not depend on the report
