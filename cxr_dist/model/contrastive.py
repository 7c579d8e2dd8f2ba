"""Contrastive pretraining: a network that embeds images and reports in one space, and its loss over a global batch.

The loss is the symmetric InfoNCE of CLIP (Radford et al. 2021, arXiv 2103.00020) and ConVIRT (Zhang et al. 2020, arXiv
2010.00747). Its value and its gradient by embedding are computed together, in closed form and a block of rows at a
time, because gradient caching (Gao et al. 2021, arXiv 2101.06983) needs them as numbers before the backward passes,
and because a matrix of all pairs of a large batch need then not be kept.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from cxr_dist.config.run import Config
from cxr_dist.model.classifier import Encoders, build_classifier, build_encoders
from cxr_dist.model.encoder_kind import GreyLevels
from cxr_dist.model.image_encoder import image_kind
from cxr_dist.model.inputs import Inputs
from cxr_dist.model.token_mean import masked_mean

LARGEST_LOG_SCALE = math.log(100)
"""As in CLIP, similarities are multiplied by 100 at most, which is a temperature of 0.01."""
_ROWS = 1024  # images whose similarities to all reports are in memory at a time; part of the order of sums


def projection_head(width: int, dimension: int) -> nn.Sequential:
    """width -> width -> dimension with a ReLU between, as in ConVIRT."""
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, dimension))


class Contrastive(Encoders):
    """An image and a text encoder, each with a projection head, and a learned temperature."""

    def __init__(
        self, *, image: nn.Module, text: nn.Module, dimension: int, temperature: float, levels: GreyLevels
    ) -> None:
        """`temperature` is the initial one, in 0.01 to 1."""
        super().__init__(image=image, text=text, levels=levels)
        self.image_head = projection_head(image.width, dimension)  # type: ignore[arg-type]
        self.text_head = projection_head(text.width, dimension)  # type: ignore[arg-type]
        self.log_scale = nn.Parameter(torch.tensor([-math.log(temperature)]))

    def forward(self, *inputs: Tensor | None) -> Tensor:
        """Map the fields of `Inputs`, in their order, to rows [b, 2 · dimension + 1], float32 or float64.

        A row is the embedding of the image, that of the report, both of length 1, and the logarithm of the inverse
        temperature. The last is in every row so that its gradient, too, comes back through the output of the network.
        """
        given = Inputs(*inputs)
        features = self.encode(given)
        assert features.image_pooled is not None
        image = self.embed_image(features.image_pooled)
        text = self.embed_text(features.text_tokens, features.attention_mask)
        return torch.cat([image, text, self.log_scale.to(image.dtype).expand(len(image), 1)], dim=1)

    def embed_image(self, pooled: Tensor) -> Tensor:
        """Map pooled image features [b, width] to embeddings [b, dimension] of length 1."""
        return unit(self.image_head(pooled))

    def embed_text(self, tokens: Tensor | None, attention_mask: Tensor | None) -> Tensor:
        """Map token vectors [b, T, width] and their mask [b, T] to embeddings [b, dimension] of length 1."""
        assert tokens is not None
        assert attention_mask is not None
        return unit(self.text_head(masked_mean(tokens, attention_mask)))


def unit(vectors: Tensor) -> Tensor:
    """Vectors [b, D], divided by their length, at least in float32."""
    return functional.normalize(vectors.to(torch.promote_types(vectors.dtype, torch.float32)), dim=1)


def build_contrastive(config: Config, text_folder: Path | None) -> Contrastive:
    """The network with random weights, which depend on `torch.manual_seed`; arguments as of `build_network`."""
    image, text, levels = build_encoders(config.model, text_folder, image_kind(config))
    return Contrastive(
        image=image,
        text=text,
        dimension=config.model.fusion_dim,
        temperature=config.pretrain.temperature,
        levels=levels,
    )


def build_network(config: Config, num_classes: int, text_folder: Path | None) -> Encoders:
    """The network of a run, a classifier or a contrastive one, with random weights that follow torch's seed.

    `text_folder` contains the text encoder's config.json. It may be None in image mode.
    """
    if config.model.is_contrastive:
        return build_contrastive(config, text_folder)
    return build_classifier(config.model, num_classes, text_folder, image_kind(config))


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Which of the G image–report pairs of a global batch are alike, so that they are no negatives of each other."""

    reports: Tensor
    """int64 [G, 2]: hashes of the whole report and of the sentences that were drawn from it; 0 for no report."""
    labels: Tensor | None = None
    """int64 [G, L] as in `Batch.labels`, if pairs with the same labels are no negatives; else None."""

    @property
    def present(self) -> Tensor:
        """bool [G], whether a pair has a report. One without takes no part in the loss."""
        return self.reports[:, 1] != 0

    def left_out(self, rows: slice) -> Tensor:
        """bool [rows, G]: off the diagonal, whether a report is no negative of an image, and the other way round.

        Labels are the same if they are equal in all classes and none is unknown.
        """
        same = (self.reports[rows, None] == self.reports).any(-1)
        if self.labels is not None:
            known = (self.labels >= 0).all(-1)
            same |= (self.labels[rows, None] == self.labels).all(-1) & known
        same |= ~self.present | ~self.present[rows, None]
        number = torch.arange(len(self.reports), device=same.device)
        return same & (number[rows, None] != number)


@dataclass(frozen=True, kw_only=True)
class PairLoss:
    """The loss of a global batch and what follows from it."""

    loss: Tensor
    """A scalar: the mean over pairs of the mean of both directions' cross-entropies, in nats; 0 without any report."""
    gradient: Tensor
    """[G, 2 D + 1], the gradient of the loss by the rows that `Contrastive.forward` returned."""
    masked: Tensor
    """Number of pairs of samples, both with a report, that were no negatives of each other."""
    temperature: Tensor
    """The temperature that was used."""


@torch.no_grad()
def pair_loss(rows: Tensor, pairs: Pairs) -> PairLoss:
    """The symmetric InfoNCE loss of the rows [G, 2 D + 1] of a global batch, and its gradient.

    The temperature is kept in 0.01 to 1, as CLIP's. Beyond these bounds its gradient is 0, unless it leads back.
    """
    batch, dimension = len(rows), rows.shape[1] // 2
    images, texts, raw = rows[:, :dimension], rows[:, dimension:-1], rows[0, -1]
    scale = raw.clamp(0, LARGEST_LOG_SCALE).exp()
    blocks = [slice(start, start + _ROWS) for start in range(0, batch, _ROWS)]
    weights = pairs.present.to(rows.dtype)
    weights = weights / weights.sum().clamp_min(1)

    def scores(block: slice) -> tuple[Tensor, Tensor]:
        left_out = pairs.left_out(block)
        return (scale * images[block] @ texts.T).masked_fill(left_out, -math.inf), left_out

    of_images, of_texts = rows.new_empty(batch), rows.new_full((batch,), -math.inf)  # log of the sums of exponentials
    own, masked = rows.new_empty(batch), torch.zeros((), dtype=torch.int64, device=rows.device)
    for block in blocks:
        values, left_out = scores(block)
        of_images[block] = values.logsumexp(1)
        of_texts = torch.logaddexp(of_texts, values.logsumexp(0))
        own[block] = values.diagonal(block.start)
        masked += (left_out & pairs.present & pairs.present[block, None]).sum()
    loss = weights @ ((of_images + of_texts) / 2 - own)

    gradient, log_scale_gradient = torch.zeros_like(rows), torch.zeros_like(raw)
    for block in blocks:
        values, left_out = scores(block)
        by_score = (values - of_images[block, None]).exp() * weights[block, None]
        by_score += (values - of_texts).exp() * weights
        by_score /= 2
        by_score.diagonal(block.start).sub_(weights[block])
        gradient[block, :dimension] = scale * by_score @ texts
        gradient[:, dimension:-1] += scale * by_score.T @ images[block]
        log_scale_gradient += (by_score * values.masked_fill(left_out, 0)).sum()
    leaving = ((raw > LARGEST_LOG_SCALE) & (log_scale_gradient < 0)) | ((raw < 0) & (log_scale_gradient > 0))
    gradient[:, -1] = log_scale_gradient.masked_fill(leaving, 0) / batch
    return PairLoss(loss=loss, gradient=gradient, masked=masked // 2, temperature=1 / scale)
