"""Zero-shot classification: an image classifier whose head consists of embedded prompts (Radford et al. 2021).

The logit of a class is the similarity of the image to its present prompts, minus that to its absent prompts, times the
learned scale. For a label, the sigmoid of this difference is the softmax over both (CheXzero, Tiu et al. 2022).
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from cxr_dist.data.packing import packed_positions
from cxr_dist.data.text import ReportTokenizer
from cxr_dist.format.prompts import Prompts
from cxr_dist.model.classifier import Classifier
from cxr_dist.model.contrastive import LARGEST_LOG_SCALE, Contrastive, unit
from cxr_dist.model.fusion import ImageSummary


class ZeroShotHead(nn.Module):
    """The projection head of images, and a direction for each class."""

    directions: Tensor

    def __init__(self, image_head: nn.Module, directions: Tensor) -> None:
        """`directions` are float [C, D]."""
        super().__init__()
        self.image_head = image_head
        self.register_buffer("directions", directions)

    def forward(self, summary: Tensor) -> Tensor:
        """Map pooled image features [n, width] to logits [n, C]."""
        return unit(self.image_head(summary)) @ self.directions.T


def zero_shot_classifier(
    model: Contrastive, tokenizer: ReportTokenizer, prompts: Iterable[Prompts], device: torch.device
) -> Classifier:
    """A classifier in eval mode that reads images only; `prompts` are in the order of its classes."""
    model.eval()
    with torch.no_grad():
        directions = [_mean(model, tokenizer, each.present, device) for each in prompts]
        for row, each in enumerate(prompts):
            if each.absent:
                directions[row] = directions[row] - _mean(model, tokenizer, each.absent, device)
        scale = model.log_scale.clamp(0, LARGEST_LOG_SCALE).exp()
    assert model.image is not None
    return Classifier(
        image=model.image,
        text=None,
        summary=ImageSummary(model.image.width),  # type: ignore[arg-type]
        head=ZeroShotHead(model.image_head, scale * torch.stack(directions)),
        levels=model.levels,
    ).eval()


def _mean(model: Contrastive, tokenizer: ReportTokenizer, texts: Sequence[str], device: torch.device) -> Tensor:
    """The mean of the embeddings of texts, again of length 1."""
    tokens, mask = (each.to(device) for each in tokenizer(list(texts)))
    assert model.text is not None
    vectors = model.text(tokens, mask, packed_positions(mask.cpu()).to(device))
    return functional.normalize(model.embed_text(vectors, mask).mean(0), dim=0)
