"""Summarise the encoders' features as one vector per sample: from the image, the report, or both by cross-attention.

A summary [b, width] is computed in two steps, so that Monte-Carlo dropout repeats only the cheap one: `forward` is
deterministic, and `drop` applies the fusion's dropout to its result.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from cxr_dist.model.token_mean import masked_mean, mean_shares
from cxr_dist.model.view_pooling import token_mask


@dataclass(frozen=True, kw_only=True)
class Features:
    """The encoders' output for `b` samples. Fields are None for inputs that the model does not read."""

    image_tokens: Tensor | None
    """float [b, n, image width], row by row in an image, and image by image if a sample has several."""
    image_pooled: Tensor | None
    """float [b, image width], the mean of the image tokens."""
    view_rows: Tensor | None = None
    """int64 [b, V], -1 for a missing image, whose tokens are masked in attention. None if each sample has one image."""
    text_tokens: Tensor | None
    """float [b, T, text width]."""
    attention_mask: Tensor | None
    """int64 [b, T], 1 = token, 0 = padding."""

    @property
    def missing_tokens(self) -> Tensor | None:
        """bool [b, n], True for the tokens of missing images; None if no image is missing."""
        if self.view_rows is None or self.image_tokens is None:
            return None
        return ~token_mask(self.view_rows, self.image_tokens.shape[1])

    def select(self, samples: Tensor) -> "Features":
        """The features of the given samples, int64 [m], in that order."""
        present = {name: tensor for name, tensor in vars(self).items() if tensor is not None}
        return replace(self, **{name: tensor[samples] for name, tensor in present.items()})


class Summary(nn.Module):
    """Base class of the modules that turn Features into one vector of length `width` per sample."""

    width: int

    def drop(self, summary: Tensor) -> Tensor:
        """Apply this module's dropout, if it has any, to a summary [n, width]."""
        return summary

    def attention_weights(self, features: Features) -> Tensor | None:
        """Attention weights [b, queries, keys], averaged over heads; None if there is no attention."""
        return None

    def token_shares(self, attention_mask: Tensor) -> Tensor | None:
        """The share of each report token in the summary, [b, T], where rows sum to 1; None if no token enters it."""
        return None


class ImageSummary(Summary):
    """The mean image token, as in the image-only model of the original notebook."""

    def __init__(self, image_width: int) -> None:
        super().__init__()
        self.width = image_width

    def forward(self, features: Features) -> Tensor:
        assert features.image_pooled is not None
        return features.image_pooled


class TextSummary(Summary):
    """The mean report token, projected to the width of a fused summary so that the head is the same."""

    def __init__(self, text_width: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.projection = nn.Linear(text_width, width)

    def forward(self, features: Features) -> Tensor:
        assert features.text_tokens is not None
        assert features.attention_mask is not None
        projected: Tensor = self.projection(masked_mean(features.text_tokens, features.attention_mask))
        return projected

    def token_shares(self, attention_mask: Tensor) -> Tensor:
        """Equal shares of the real tokens, [b, T]."""
        return mean_shares(attention_mask)


class Fusion(Summary):
    """Base class of the fusions: project both inputs, attend, and concatenate [image, attended]."""

    def __init__(self, *, image_width: int, text_width: int, dimension: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.width = 2 * dimension
        self.image_projection = nn.Linear(image_width, dimension)
        self.text_projection = nn.Linear(text_width, dimension)
        self.attention = nn.MultiheadAttention(dimension, heads, batch_first=True)
        self.dropout = nn.Dropout(dropout)

    def drop(self, summary: Tensor) -> Tensor:
        """Apply dropout to the attended half of a summary [n, width]."""
        image, attended = summary.chunk(2, dim=1)
        return torch.cat([image, self.dropout(attended)], dim=1)


class TokenFusion(Fusion):
    """Report tokens attend to image tokens in a Transformer's cross-attention block (Vaswani et al. 2017).

    The residual connection passes on the content of the report. Without it the report could only choose among image
    values.
    """

    def __init__(self, *, image_width: int, text_width: int, dimension: int, heads: int, dropout: float) -> None:
        super().__init__(
            image_width=image_width, text_width=text_width, dimension=dimension, heads=heads, dropout=dropout
        )
        self.norm = nn.LayerNorm(dimension)

    def forward(self, features: Features) -> Tensor:
        """[b, 2 · dimension]: the projected mean image token, and the mean attended report token."""
        assert features.image_pooled is not None
        assert features.attention_mask is not None
        queries, keys = self._project(features)
        missing = features.missing_tokens
        values, _ = self.attention(queries, keys, keys, key_padding_mask=missing, need_weights=False)
        attended = masked_mean(self.norm(queries + values), features.attention_mask)
        image = self.image_projection(features.image_pooled)
        return torch.cat([image, attended], dim=1)

    def attention_weights(self, features: Features) -> Tensor:
        """[b, T, n]: the attention of each report token to each image token; sums to 1 over n."""
        queries, keys = self._project(features)
        weights: Tensor = self.attention(queries, keys, keys, key_padding_mask=features.missing_tokens)[1]
        return weights

    def token_shares(self, attention_mask: Tensor) -> Tensor:
        """Equal shares of the real tokens, [b, T], because each token is a query and the queries are averaged."""
        return mean_shares(attention_mask)

    def _project(self, features: Features) -> tuple[Tensor, Tensor]:
        return self.text_projection(features.text_tokens), self.image_projection(features.image_tokens)


class PooledFusion(Fusion):
    """The original notebook's fusion: the [CLS] vector is the only query, the pooled image the only key and value.

    The softmax over one key is 1, so the output does not depend on the report. It is kept for comparison.
    """

    def forward(self, features: Features) -> Tensor:
        """[b, 2 · dimension]: the projected pooled image, and the attended one."""
        image, attended, _ = self._attend(features)
        return torch.cat([image, attended], dim=1)

    def attention_weights(self, features: Features) -> Tensor:
        """[b, 1, 1], all ones."""
        return self._attend(features)[2]

    def _attend(self, features: Features) -> tuple[Tensor, Tensor, Tensor]:
        assert features.text_tokens is not None
        image = self.image_projection(features.image_pooled)
        query = self.text_projection(features.text_tokens[:, 0])
        key = image.unsqueeze(1)
        attended, weights = self.attention(query.unsqueeze(1), key, key, need_weights=True)
        return image, attended.squeeze(1), weights
