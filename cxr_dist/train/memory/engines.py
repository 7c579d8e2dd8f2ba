"""What an engine keeps on a rank's device between micro-batches, and while it updates: bytes from sizes alone.

Weights are parameters and buffers, gradients as large as the parameters; all float32, also under bf16 autocast. What
there is follows from ddp.py and DeepSpeed's ZeRO optimizers; offloading was not measured, for want of a GPU.
"""

from dataclasses import dataclass
from typing import Literal

from cxr_dist.distributed.zero_settings import BUCKET_ELEMENTS

Engine = Literal["ddp", "zero1", "zero2", "zero3"]
_MOMENTS, _BYTES = 2, 4  # of Adam; of a float32
# DeepSpeed's own and those that it flattens or pads into: what two gloo ranks on the CPU were measured to need.
_BUCKETS: dict[str, int] = {"zero1": 1, "zero2": 2, "zero3": 4}


@dataclass(frozen=True, kw_only=True)
class Held:
    """Bytes on a rank's device, besides what a micro-batch takes."""

    backward: int
    """During a rank's last micro-batch, with the weights, all gradients that earlier ones left, and moments."""
    update: int
    """While the optimizer computes, when no activation is there."""


def held(
    engine: Engine,
    *,
    ranks: int,
    weights: int,
    gradients: int,
    several: bool,
    averaged: bool = False,
    offload: bool = False,
) -> Held:
    """What a rank holds. `several`: it has more than one micro-batch a step; `averaged`: optim.ema_decay is on.

    `offload`: the optimizer's state in the host's memory, and at stage 3 the parameters, as in launch/deepspeed.
    """
    if engine == "ddp":
        return _of_ddp(ranks, weights, gradients, several, averaged)
    part = gradients // ranks
    state = 0 if offload else (1 + _MOMENTS + averaged) * part  # float32 master weights and moments
    parameters, gathered, summed = weights, 0, 0 if offload else part
    if engine == "zero1":
        summed = gradients if several else 0
    if engine == "zero3":  # DeepSpeed's limits of what is gathered at once are above this model's size
        parameters, gathered = weights - gradients + (0 if offload else part), gradients
    buckets = _BYTES * BUCKET_ELEMENTS * _BUCKETS[engine]
    return Held(
        backward=parameters + state + summed + buckets + gathered,
        update=parameters + state + max(summed, part) + 2 * part,
    )


def _of_ddp(ranks: int, weights: int, gradients: int, several: bool, averaged: bool) -> Held:
    """Above one rank gradients lie in DDP's buckets; those of earlier micro-batches stay beside them until then."""
    state = weights + (_MOMENTS + averaged) * gradients
    in_buckets = gradients if ranks > 1 else 0
    return Held(
        backward=state + in_buckets + (gradients if several else 0),
        update=state + in_buckets + (0 if ranks > 1 else gradients),
    )
