"""What a step asks of the device: floating-point operations of the model, from the samples that it saw.

They are counted once per run, without computing anything, and then follow from each report's length. Only what the
model needs counts, as in "model FLOPs utilisation" (Chowdhery et al. 2022, PaLM, appendix B): no padding, no
activations computed a second time, and not the little that is neither convolution nor matrix product.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from cxr_dist.data.batch import Batch
from cxr_dist.model.classifier import Classifier

BACKWARD = 2
"""Of a forward pass: each of its products has two in the backward pass, for the input and for the weights."""
_LENGTHS = (8, 16)  # tokens of the reports by which the growth with length is found; no encoder takes fewer


@dataclass(frozen=True, kw_only=True)
class ModelFlops:
    """Operations of one sample's forward pass, a multiplication and its addition counted as two."""

    film: float
    """The image encoder, per film."""
    report: tuple[float, float]
    """The text encoder on a report of T real tokens: coefficients of T and T²."""
    rest: tuple[float, float]
    """Fusion and head, per sample of one film: coefficients of 1 and T."""

    def forward(self, batch: Batch) -> dict[str, float]:
        """The forward pass of a micro-batch on the host: `image`, `text`, and `fusion` with the head."""
        films = 0 if batch.images is None else len(batch.images)
        tokens = squares = 0
        if batch.attention_mask is not None:
            lengths = batch.attention_mask.numpy().sum(axis=1)  # NumPy's: a tensor's may be the device's
            tokens, squares = int(lengths.sum()), int(np.square(lengths).sum())
        return {
            "image": self.film * films,
            "text": self.report[0] * tokens + self.report[1] * squares,
            "fusion": self.rest[0] * len(batch) + self.rest[1] * tokens,
        }

    def of(self, batch: Batch, *, frozen: bool) -> float:
        """Forward and backward of a micro-batch on the host; `frozen` encoders have no backward pass."""
        parts = self.forward(batch)
        trained = parts["fusion"] if frozen else sum(parts.values())
        return sum(parts.values()) + BACKWARD * trained


def count_flops(model: Classifier, image_size: int) -> ModelFlops | None:
    """Count forward passes of tensors without values; the model is left as it was.

    None for a text encoder that cannot run without values, as one that chooses its way by them.
    """
    training, (short, long) = model.training, _LENGTHS
    try:
        film, *first = _forward(model.eval(), image_size, short)
        _, *second = _forward(model, image_size, long)
    except (NotImplementedError, RuntimeError):  # what torch raises where a value would have to be known
        return None
    finally:
        model.train(training)
    squared = (second[0] / long - first[0] / short) / (long - short)
    per_token = (second[1] - first[1]) / (long - short)
    return ModelFlops(
        film=film,
        report=(first[0] / short - squared * short, squared),
        rest=(first[1] - per_token * short, per_token),
    )


@torch.no_grad()
def _forward(model: Classifier, image_size: int, length: int) -> tuple[float, float, float]:
    """Operations for one sample: of the image encoder, of the text encoder, and of all the rest."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    shapes = {name: tensor.to("meta") for name, tensor in tensors}
    films = torch.empty(1, 1, image_size, image_size, device="meta", dtype=tensors[0][1].dtype)
    tokens = torch.ones(1, length, dtype=torch.int64, device="meta")
    with FlopCounterMode(display=False) as counter:
        functional_call(model, shapes, (films, tokens, tokens))
    counts = counter.get_flop_counts()
    image, text = (sum(counts.get(f"Classifier.{part}", {}).values()) for part in ("image", "text"))
    return image, text, counter.get_total_flops() - image - text
