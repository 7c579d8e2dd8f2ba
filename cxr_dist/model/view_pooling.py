"""Combine the encoder's output for the images of a batch into one row per sample.

The tokens of a sample's images are concatenated for the fusion, and its pooled image is the mean over its images. The
order of a study's images does not change the result.
"""

from torch import Tensor


def of_samples(tokens: Tensor, pooled: Tensor, view_rows: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens [n, t, width] of n images to [b, V · t, width] of b samples, and pooled [n, width] to means [b, width].

    `view_rows` is int64 [b, V], the images of each sample, padded with -1 (`Batch.view_rows`). The tokens of missing
    images are zero and do not enter the mean. Every sample has at least one image.
    """
    mask, rows = view_rows >= 0, view_rows.clamp_min(0)
    joined = tokens[rows].masked_fill(~mask[:, :, None, None], 0).flatten(1, 2)
    summed = pooled[rows].masked_fill(~mask[:, :, None], 0).sum(1)
    return joined, summed / mask.sum(1, keepdim=True)


def token_mask(view_rows: Tensor, tokens: int) -> Tensor:
    """bool [b, tokens], False for the image tokens of missing images, from `view_rows` [b, V]."""
    return (view_rows >= 0).repeat_interleave(tokens // view_rows.shape[1], dim=1)
