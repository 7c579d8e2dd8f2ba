"""How DistributedDataParallel sends gradients: settings with torch's own names and defaults.

Imports nothing but the standard library, as config/run.py, of which it is a section.
"""

from dataclasses import dataclass
from typing import Literal

from cxr_dist.errors import UserError


@dataclass(frozen=True, kw_only=True)
class DdpConfig:
    """With --parallel ddp, and no effect in a world of one."""

    bucket_cap_mb: int = 25
    """Gradients cross ranks in buckets of at most so many MiB: large ones cost less latency, small ones start
    earlier in the backward pass. With torch's own 25 the first bucket holds 1 MiB."""
    comm_hook: Literal["none", "bf16"] = "none"
    """`bf16`: torch's bf16_compress_hook halves the bytes between ranks. The price: gradients are rounded to 8
    bits and added up so, and results depend on the world size beyond the order of a sum."""

    def __post_init__(self) -> None:
        if self.bucket_cap_mb < 1:
            raise UserError(f"ddp.bucket_cap_mb is {self.bucket_cap_mb}; it must be at least 1")

    def check(self, parallel: str, precision: str) -> None:
        """Raise UserError where these settings would have no effect, or undo another one."""
        if parallel != "ddp" and self != DdpConfig():
            raise UserError(f"ddp.… is set, but parallel is {parallel}: leave it out, or use --parallel ddp")
        if precision == "fp64" and self.comm_hook != "none":
            raise UserError(
                f"precision fp64 is for exactness, and ddp.comm_hook {self.comm_hook} rounds gradients: "
                "leave one of them out"
            )
