"""The rates that NVIDIA's data sheets promise for GPUs: what model FLOPs utilisation is a share of.

Dense tensor-core rates, without sparsity, at the card's full power. A device that is not listed has no peak here, and
then no utilisation is logged: a CPU's depends on clock rates that no sheet fixes, and a guess would look measured.
"""

import re

import torch

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
