"""Measure the limits of this device: the largest rate of a matrix product, and the rate of a copy in memory.

The limits are measured and not taken from a data sheet, so a share of them is a share of what programs reach here.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

_SIDES = {"cpu": (1024, 2048, 4096), "cuda": (4096, 8192, 16384)}
_COPIED_BYTES = {"cpu": 2**29, "cuda": 2**32}  # far above any cache
_SECONDS = 1.5  # for each product's size, and for the copy
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """The two limits of the roofline model (Williams et al. 2009)."""

    operations_per_second: float
    """Rate of a square matrix product; a multiplication and an addition count as two operations."""
    bytes_per_second: float
    """Bytes per second that a copy of a large tensor reads and writes."""

    def seconds(self, operations: float, bytes_moved: float) -> float:
        """The shortest time for this work in the roofline model."""
        return max(operations / self.operations_per_second, bytes_moved / self.bytes_per_second)


def measure_ceilings(device: torch.device, precision: str) -> Ceilings:
    """The best rates of repeated calls, after a call that warms up.

    On CUDA float32 products may use TF32 here, because cuDNN's convolutions do so by default.
    """
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        rates = [_product_rate(device, precision, side) for side in _SIDES[device.type]]
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed
    return Ceilings(operations_per_second=max(rates), bytes_per_second=_copy_rate(device))


def _product_rate(device: torch.device, precision: str, side: int) -> float:
    a, b = (torch.randn(side, side, device=device).to(_DTYPES[precision]) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * side**3 / fastest(lambda: torch.mm(a, b, out=out), device, _SECONDS)


def _copy_rate(device: torch.device) -> float:
    source = torch.ones(_COPIED_BYTES[device.type] // 4, device=device)
    target = torch.empty_like(source)
    return 2 * _COPIED_BYTES[device.type] / fastest(lambda: target.copy_(source), device, _SECONDS)


def fastest(call: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Seconds of the fastest call among those that fit into `seconds`, but at least three."""
    call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        times.append(seconds_of(call, device))
    return min(times)


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    """Seconds that the device takes for a call."""
    start = now(device)
    call()
    return seconds_between(start, now(device))


def now(device: torch.device) -> Any:
    """A time stamp of the device: an event on CUDA, without waiting for it, else the clock's seconds."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


def seconds_between(start: Any, end: Any) -> float:
    """Seconds between two time stamps of a device; waits for the later one."""
    if isinstance(start, float):
        return float(end - start)
    end.synchronize()
    return float(start.elapsed_time(end)) / 1000
