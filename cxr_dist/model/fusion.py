"""What the encoders saw, made one vector per sample: from the film, the report, or both by cross-attention.

Features in, summary [b, width] out. A summary has two steps, so that Monte-Carlo dropout repeats only the cheap
one: `forward` is deterministic, `drop` applies the fusion's dropout to its result.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from cxr_dist.model.token_mean import masked_mean, mean_shares
from cxr_dist.model.view_pooling import token_mask


@dataclass(frozen=True, kw_only=True)
class Features:
    """The encoders' output for `b` samples; None for what the model does not read."""

    image_tokens: Tensor | None
    """float [b, n, image width], row by row over the film, film by film where a sample has several."""
    image_pooled: Tensor | None
    """float [b, image width], the mean of the image tokens."""
    view_rows: Tensor | None = None
    """int64 [b, V], -1 for each film that a sample lacks, whose tokens nobody attends to; None: all have one film."""
    text_tokens: Tensor | None
    """float [b, T, text width]."""
    attention_mask: Tensor | None
    """int64 [b, T], 1 = token, 0 = padding."""

    @property
    def missing_tokens(self) -> Tensor | None:
        """bool [b, n], True for the image tokens of films that a sample lacks; None where all are there."""
        if self.view_rows is None or self.image_tokens is None:
            return None
        return ~token_mask(self.view_rows, self.image_tokens.shape[1])

    def select(self, samples: Tensor) -> "Features":
        """The features of some samples, int64 [m], in that order."""
        chosen = {f.name: getattr(self, f.name) for f in fields(self)}
        return Features(**{name: None if part is None else part[samples] for name, part in chosen.items()})


class Summary(nn.Module):
    """Features to one vector per sample, `width` wide."""

    width: int

    def drop(self, summary: Tensor) -> Tensor:
        """The summary [n, width] with this module's dropout, if it has any."""
        return summary

    def attention_weights(self, features: Features) -> Tensor | None:
        """Where each query looks, mean over heads: [b, queries, keys]; None without attention."""
        return None

    def token_shares(self, attention_mask: Tensor) -> Tensor | None:
        """How much of the summary each report token supplies, [b, T], rows sum to 1; None where none enters it."""
        return None


class ImageSummary(Summary):
    """The mean image token: the original's image-only model."""

    def __init__(self, image_width: int) -> None:
        super().__init__()
        self.width = image_width

    def forward(self, features: Features) -> Tensor:
        """[b, image width]."""
        assert features.image_pooled is not None
        return features.image_pooled


class TextSummary(Summary):
    """The mean report token, projected to the width of a fused summary, so that the head is the same."""

    def __init__(self, text_width: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.projection = nn.Linear(text_width, width)

    def forward(self, features: Features) -> Tensor:
        """[b, width]."""
        assert features.text_tokens is not None
        assert features.attention_mask is not None
        projected: Tensor = self.projection(masked_mean(features.text_tokens, features.attention_mask))
        return projected

    def token_shares(self, attention_mask: Tensor) -> Tensor:
        """Equal shares of the real tokens, [b, T]."""
        return mean_shares(attention_mask)


class Fusion(Summary):
    """Projections into a shared space, attention between them, and [image, attended] side by side."""

    def __init__(
        self, *, image_width: int, text_width: int, dimension: int, heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.width = 2 * dimension
        self.image_projection = nn.Linear(image_width, dimension)
        self.text_projection = nn.Linear(text_width, dimension)
        self.attention = nn.MultiheadAttention(dimension, heads, batch_first=True)
        self.dropout = nn.Dropout(dropout)

    def drop(self, summary: Tensor) -> Tensor:
        """The summary [n, width] with dropout on its attended half."""
        image, attended = summary.chunk(2, dim=1)
        return torch.cat([image, self.dropout(attended)], dim=1)


class TokenFusion(Fusion):
    """Report tokens attend to image tokens: a Transformer's cross-attention block (Vaswani et al. 2017).

    The report's own content reaches the summary through the residual connection. Without it the output would
    hold image values only, and the report could merely choose among them.
    """

    def __init__(
        self, *, image_width: int, text_width: int, dimension: int, heads: int, dropout: float
    ) -> None:
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
        seen, _ = self.attention(queries, keys, keys, key_padding_mask=missing, need_weights=False)
        attended = masked_mean(self.norm(queries + seen), features.attention_mask)
        image = self.image_projection(features.image_pooled)
        return torch.cat([image, attended], dim=1)

    def attention_weights(self, features: Features) -> Tensor:
        """[b, T, n]: the share of its attention that a report token gives an image token; sums to 1 over n."""
        queries, keys = self._project(features)
        missing = features.missing_tokens
        weights: Tensor = self.attention(queries, keys, keys, key_padding_mask=missing)[1]
        return weights

    def token_shares(self, attention_mask: Tensor) -> Tensor:
        """Equal shares of the real tokens, [b, T]: each is a query, and the queries are averaged."""
        return mean_shares(attention_mask)

    def _project(self, features: Features) -> tuple[Tensor, Tensor]:
        return self.text_projection(features.text_tokens), self.image_projection(features.image_tokens)


class PooledFusion(Fusion):
    """The original's fusion: the [CLS] vector is the one query, the pooled film the one key and value.

    Softmax over one key is 1, so the output does not depend on the report. It is kept for comparison.
    """

    def forward(self, features: Features) -> Tensor:
        """[b, 2 · dimension]: the projected pooled film, and the attended one."""
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
