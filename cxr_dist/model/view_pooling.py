"""The films of a sample brought together: what the encoder made of all films of a batch in, one row per sample out.

Tokens of all its films stand side by side for the fusion; the pooled image is the mean over its films. No film has a
place of its own in the network: which of a study's films comes first changes nothing.
"""

from torch import Tensor


def of_samples(tokens: Tensor, pooled: Tensor, view_rows: Tensor) -> tuple[Tensor, Tensor]:
    """Films' tokens [n, t, width] to samples' tokens [b, V · t, width]; films' pooled [n, width] to means [b, width].

    Args:
        tokens: of n films.
        pooled: of n films.
        view_rows: int64 [b, V], the films of each sample (`Batch.view_rows`); -1 where it has fewer than V. What
            stands in for those is zero, and not part of the mean. Every sample has one film or more.
    """
    mask, rows = view_rows >= 0, view_rows.clamp_min(0)
    found = tokens[rows].masked_fill(~mask[:, :, None, None], 0).flatten(1, 2)
    summed = pooled[rows].masked_fill(~mask[:, :, None], 0).sum(1)
    return found, summed / mask.sum(1, keepdim=True)


def token_mask(view_rows: Tensor, tokens: int) -> Tensor:
    """bool [b, tokens], True for each of a sample's image tokens that is of a film, where it has V films or fewer."""
    return (view_rows >= 0).repeat_interleave(tokens // view_rows.shape[1], dim=1)
