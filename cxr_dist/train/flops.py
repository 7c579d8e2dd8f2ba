"""Model FLOPs: the floating-point operations that the model needs for the samples of a step, and the peak of the
device.

The operations are counted once per run on tensors without values, and then follow from the length of each report. As in
model FLOPs utilisation (Chowdhery et al. 2022, PaLM, appendix B), padding, recomputed activations, and operations other
than convolutions and matrix products do not count. Utilisation is relative to the dense rate in NVIDIA's data sheet at
full power. It is not logged for a device that is not listed, and not for CPUs, whose peak no data sheet specifies.
"""

import re
from dataclasses import dataclass

import numpy as np
import torch
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from cxr_dist.data.batch import Batch
from cxr_dist.model.classifier import Encoders

BACKWARD = 2
"""Operations of a backward pass relative to its forward pass: two products, for the inputs and for the weights."""
_LENGTHS = (
    8,
    16,
)  # tokens of the two reports from which the coefficients follow; every encoder accepts these


@dataclass(frozen=True, kw_only=True)
class ModelFlops:
    """Operations of a forward pass of one sample; a multiplication and an addition count as two."""

    image: float
    """The image encoder, per image."""
    report: tuple[float, float]
    """The text encoder on a report of T tokens without padding: coefficients of T and T²."""
    rest: tuple[float, float]
    """Fusion and head, per sample with one image: coefficients of 1 and T."""

    def forward(self, batch: Batch) -> dict[str, float]:
        """Operations of the forward pass of a micro-batch: `image`, `text`, and `fusion`, which includes the head."""
        images = 0 if batch.images is None else len(batch.images)
        tokens = squares = 0
        if batch.attention_mask is not None:
            lengths = batch.attention_mask.numpy().sum(axis=1)  # in NumPy, which never uses the device
            tokens, squares = int(lengths.sum()), int(np.square(lengths).sum())
        return {
            "image": self.image * images,
            "text": self.report[0] * tokens + self.report[1] * squares,
            "fusion": self.rest[0] * len(batch) + self.rest[1] * tokens,
        }

    def of(self, batch: Batch, *, frozen: bool) -> float:
        """Operations of forward and backward on a micro-batch; `frozen` encoders have no backward pass."""
        parts = self.forward(batch)
        trained = parts["fusion"] if frozen else sum(parts.values())
        return sum(parts.values()) + BACKWARD * trained


def count_flops(model: Encoders, image_size: int) -> ModelFlops | None:
    """Count the operations of forward passes on tensors without values; the model is not changed.

    Returns None if an encoder cannot run without values, for example because its control flow depends on them.
    """
    training, (short, long) = model.training, _LENGTHS
    try:
        image, *first = _forward(model.eval(), image_size, short)
        _, *second = _forward(model, image_size, long)
    except (NotImplementedError, RuntimeError, TypeError):  # raised by torch if a value is needed
        return None
    finally:
        model.train(training)
    squared = (second[0] / long - first[0] / short) / (long - short)
    per_token = (second[1] - first[1]) / (long - short)
    return ModelFlops(
        image=image,
        report=(first[0] / short - squared * short, squared),
        rest=(first[1] - per_token * short, per_token),
    )


@torch.no_grad()
def _forward(model: Encoders, image_size: int, length: int) -> tuple[float, float, float]:
    """Operations of one sample: in the image encoder, in the text encoder, and in the rest of the model."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    shapes = {name: tensor.to("meta") for name, tensor in tensors}
    images = torch.empty(1, 1, image_size, image_size, device="meta", dtype=tensors[0][1].dtype)
    tokens = torch.ones(1, length, dtype=torch.int64, device="meta")
    with FlopCounterMode(display=False) as counter:
        functional_call(model, shapes, (images, tokens, tokens))
    counts = counter.get_flop_counts()
    image, text = (sum(counts.get(f"{type(model).__name__}.{part}", {}).values()) for part in ("image", "text"))
    return image, text, counter.get_total_flops() - image - text


# Patterns of torch.cuda.get_device_name, the more specific first, with 10^12 operations per second in (bf16, TF32,
# fp32); None if the GPU does not support the format. From NVIDIA's data sheets of the H100, H200, A100, A30, A10, L4
# and V100 Tensor Core GPUs, the GH200 Grace Hopper Superchip, the A40, RTX A6000, L40S and T4. Many of these give rates
# with sparsity, which are halved here.
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
    """Peak operations per second of a GPU by its name; None if it is not listed, or is a part of one (MIG).

    `tf32`: whether a float32 run may use TF32, as torch's convolutions do by default.
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
    """`peak_of` this device for a run at this precision; None for a CPU."""
    if device.type != "cuda":
        return None
    tf32 = torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32
    return peak_of(torch.cuda.get_device_name(device), precision, tf32=tf32)
