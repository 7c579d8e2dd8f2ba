"""What a step asks of the device: floating-point operations of the model, from the samples that it saw.

They are counted once per run, without computing anything, and then follow from each report's length. Only what the
model needs counts, as in "model FLOPs utilisation" (Chowdhery et al. 2022, PaLM, appendix B): no padding, no
activations computed a second time, and not the little that is neither convolution nor matrix product.

Utilisation is a share of the dense tensor-core rate in NVIDIA's data sheet, without sparsity, at the card's full power.
A device that is not listed has no peak, and then no utilisation is logged: a CPU's depends on clock rates that no sheet
fixes, and a guess would look measured.
"""

import re
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

    None for an encoder that cannot run without values, as one that chooses its way by them.
    """
    training, (short, long) = model.training, _LENGTHS
    try:
        film, *first = _forward(model.eval(), image_size, short)
        _, *second = _forward(model, image_size, long)
    except (NotImplementedError, RuntimeError, TypeError):  # what torch raises where a value would be needed
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


# Patterns of torch.cuda.get_device_name, the more special first; 10^12 operations per second in (bf16, TF32, fp32),
# None where the card has no such units. From NVIDIA's data sheets of the H100, H200, A100, A30, A10, L4 and V100 Tensor
# Core GPUs, the GH200 Grace Hopper Superchip, the A40, RTX A6000, L40S and T4, which give many of these with sparsity:
# twice as much.
_PEAKS: tuple[tuple[str, tuple[float | None, float | None, float]], ...] = (
    (r"\bH100 PCIe\b", (756.0, 378.0, 51.0)),
    (r"\bH(100|200) NVL\b", (835.5, 417.5, 60.0)),
    (r"\bH100 80GB HBM3\b|\bH200$|\bGH200\b", (989.5, 494.5, 67.0)),
    (r"\bA100\b", (312.0, 156.0, 19.5)),
    (r"\bA30\b", (165.0, 82.0, 10.3)),
    (r"\bA10\b", (125.0, 62.5, 31.2)),
    (r"\bA40\b", (149.7, 74.8, 37.4)),
    (r"\bRTX A6000\b", (154.8, 77.4, 38.7)),
    (r"\bL40S\b", (362.0, 183.0, 91.6)),
    (r"\bL4\b", (121.0, 60.0, 30.3)),
    (r"\bV100-SXM2\b", (None, None, 15.7)),
    (r"\bV100-PCIE\b", (None, None, 14.0)),
    (r"\bT4\b", (None, None, 8.1)),
)


def peak_of(name: str, precision: str, *, tf32: bool) -> float | None:
    """Operations per second of a GPU by its name; None where no sheet says so, and for a part of one (MIG).

    `tf32`: a float32 run may use it, as torch's convolutions do by default.
    """
    if "MIG" in name or precision == "fp64":
        return None
    rates = next((rates for pattern, rates in _PEAKS if re.search(pattern, name)), None)
    if rates is None:
        return None
    bf16, reduced, full = rates
    rate = bf16 if precision == "bf16" else (reduced if tf32 and reduced else full)
    return None if rate is None else rate * 1e12


def device_peak(device: torch.device, precision: str) -> float | None:
    """`peak_of` this device, for a run at this precision."""
    if device.type != "cuda":
        return None
    tf32 = torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32
    return peak_of(torch.cuda.get_device_name(device), precision, tf32=tf32)
