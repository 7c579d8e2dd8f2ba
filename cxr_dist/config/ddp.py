"""The section `ddp` of a run's configuration: how DistributedDataParallel communicates gradients.

The settings have torch's names and defaults.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from cxr_dist.config.range import Range, check_ranges
from cxr_dist.errors import UserError


@dataclass(frozen=True, kw_only=True)
class DdpConfig:
    """How DistributedDataParallel communicates gradients; without effect on a single rank."""

    bucket_cap_mb: Annotated[int, Range(min=1)] = 25
    """Maximum size of a gradient bucket in MiB, at least 1. Larger buckets reduce latency; smaller buckets are sent
    earlier in the backward pass. With the default the first bucket holds 1 MiB."""
    comm_hook: Literal["none", "bf16"] = "none"
    """`bf16` halves the bytes sent between ranks with torch's bf16_compress_hook. Gradients are then rounded to 8
    significant bits before they are summed, so results depend on the world size by more than the order of a sum."""

    def __post_init__(self) -> None:
        check_ranges(self, "ddp")

    def check(self, parallel: str, precision: str) -> None:
        """Raise UserError if these settings would have no effect or would contradict the precision."""
        if parallel != "ddp" and self != DdpConfig():
            raise UserError(f"ddp.… is set, but parallel is {parallel}: leave it out, or use --parallel ddp")
        if precision == "fp64" and self.comm_hook != "none":
            raise UserError(
                f"precision fp64 is for exactness, and ddp.comm_hook {self.comm_hook} rounds gradients: "
                "leave one of them out"
            )
