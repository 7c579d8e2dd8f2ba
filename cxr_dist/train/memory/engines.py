"""Memory that an engine holds on a rank's device in addition to activations, computed from the sizes of the network.

All weights and gradients are float32, also under bf16 autocast. The formulas follow from ddp.py and DeepSpeed's ZeRO
optimizers. Those for offloading have not been verified on a GPU.
"""

from dataclasses import dataclass
from typing import Literal

from cxr_dist.distributed.zero_settings import BUCKET_ELEMENTS
from cxr_dist.train.memory.footprint import Footprint

Engine = Literal["ddp", "zero1", "zero2", "zero3"]
_MOMENTS, _BYTES = 2, 4  # moments of Adam; bytes of a float32
# Buckets of DeepSpeed, including those for flattening and padding, as measured with two gloo ranks on the CPU.
_BUCKETS: dict[str, int] = {"zero1": 1, "zero2": 2, "zero3": 4}


@dataclass(frozen=True, kw_only=True)
class Held:
    """Bytes on a rank's device, without the footprint of a micro-batch."""

    backward: int
    """During the last micro-batch of a step: weights, accumulated gradients, and optimizer state."""
    update: int
    """During the optimizer's update, when there are no activations."""


def held(
    sizes: Footprint, engine: Engine, *, ranks: int, several: bool, averaged: bool, offload: bool, exact_lanes: int = 0
) -> Held:
    """The memory that a rank holds with this engine.

    `several`: the rank has several micro-batches per step. `averaged`: optim.ema_decay is on. `offload`: the optimizer
    state is in host memory, and at stage 3 the parameters too, as in launch/deepspeed. `exact_lanes`: the number of
    lanes of a rank if exact_sums is on, else 0.
    """
    weights, gradients = sizes.weights, sizes.gradients
    if exact_lanes:
        return _of_exact_sums(ranks, weights, gradients, exact_lanes, averaged)
    if engine == "ddp":
        return _of_ddp(ranks, weights, gradients, several, averaged)
    part = gradients // ranks
    state = 0 if offload else (1 + _MOMENTS + averaged) * part  # float32 master weights and moments
    parameters, gathered, summed = weights, 0, 0 if offload else part
    if engine == "zero1":
        summed = gradients if several else 0
    if engine == "zero3":  # DeepSpeed's limits on gathered parameters exceed the size of this model
        parameters, gathered = weights - gradients + (0 if offload else part), gradients
    buckets = _BYTES * BUCKET_ELEMENTS * _BUCKETS[engine]
    return Held(
        backward=parameters + state + summed + buckets + gathered,
        update=parameters + state + max(summed, part) + 2 * part,
    )


def _of_ddp(ranks: int, weights: int, gradients: int, several: bool, averaged: bool) -> Held:
    """With several ranks, DDP's buckets hold the gradients, in addition to those of earlier micro-batches."""
    state = weights + (_MOMENTS + averaged) * gradients
    in_buckets = gradients if ranks > 1 else 0
    return Held(
        backward=state + in_buckets + (gradients if several else 0),
        update=state + in_buckets + (0 if ranks > 1 else gradients),
    )


def _of_exact_sums(ranks: int, weights: int, gradients: int, lanes: int, averaged: bool) -> Held:
    """Each lane starts without gradients; finished subtrees of lanes wait, and gradients are not part of buckets."""
    state = weights + (_MOMENTS + averaged) * gradients + (gradients if ranks > 1 else 0)
    spare = lanes.bit_length() - 1  # log2
    return Held(backward=state + spare * gradients, update=state + gradients)
