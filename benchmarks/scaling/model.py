"""How long a training step takes on many ranks: measured seconds and links in, predicted seconds out. No processes.

Assumptions, each of them in `ASSUMPTIONS` and so in the result's file:
ranks are alike, none is late, and data is always there; communication does not slow computing on a GPU down;
gradients become ready evenly over the backward pass, by bytes; buckets cross one after another; links reach a set
share of their nominal rate. Latency and bandwidth are those of a ring (Patarasuk and Yuan 2009) inside a node and of
rings with tree-like latency between nodes, each GPU of a node with its own slice, as NCCL does it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

ASSUMPTIONS = (
    "no rank is late, and no rank waits for data",
    "communication does not slow computing down (on one machine's CPU it does: there, the measured share is used)",
    "gradients become ready evenly over the last lane's backward pass, by bytes",
    "buckets cross one after another, each hierarchically: reduce-scatter in the node, ring between nodes, all-gather",
    "ranks of one machine that share cores are slowed in proportion, computing and communicating",
)


@dataclass(frozen=True, kw_only=True)
class Link:
    """What connects ranks of a ring."""

    bytes_per_second: float
    """One direction, usable."""
    latency_seconds: float
    """Of one message."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Nodes of GPUs."""

    gpus_per_node: int
    inside: Link
    """Between two GPUs of a node."""
    between: Link
    """Between two nodes, all their network cards together."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """A rank's own work in a step, measured on one rank."""

    lane_seconds: float
    """Forward and backward of a micro-batch."""
    backward_seconds: float
    """Of them, the backward pass: what communication can hide behind."""
    update_seconds: float
    """All that is done once a step."""

    def faster(self, times: float) -> "Work":
        """The same work of a rank that is so many times as fast."""
        return Work(
            lane_seconds=self.lane_seconds / times,
            backward_seconds=self.backward_seconds / times,
            update_seconds=self.update_seconds / times,
        )

    def alone(self, lanes: int) -> float:
        """Seconds of a step of so many lanes, without other ranks."""
        return lanes * self.lane_seconds + self.update_seconds


def ring_seconds(num_bytes: float, ranks: int, link: Link) -> float:
    """All-reduce in a ring: each rank sends 2 (W - 1) messages of 1 / W of the bytes."""
    messages = 2 * (ranks - 1)
    return messages * (num_bytes / ranks / link.bytes_per_second + link.latency_seconds)


def fit_link(points: Sequence[tuple[float, float]], ranks: int) -> Link:
    """The link that explains all-reduces of so many ranks best, by relative error.

    Args:
        points: (bytes, measured seconds), at least two sizes.
    """
    sizes, seconds = np.array(points, dtype=float).T
    messages = 2 * (ranks - 1)
    terms = np.stack([messages * sizes / ranks, np.full_like(sizes, messages)], axis=1)
    (per_byte, latency), *_ = np.linalg.lstsq(terms / seconds[:, None], np.ones_like(seconds))
    return Link(bytes_per_second=1 / max(per_byte, 1e-15), latency_seconds=max(float(latency), 0.0))


def cluster_seconds(num_bytes: float, ranks: int, cluster: Cluster) -> float:
    """All-reduce over nodes; between nodes the number of messages one waits for grows with the logarithm."""
    local = min(ranks, cluster.gpus_per_node)
    nodes = math.ceil(ranks / cluster.gpus_per_node)
    inside = ring_seconds(num_bytes, local, cluster.inside)
    wire = 2 * (nodes - 1) / nodes * num_bytes / cluster.between.bytes_per_second
    return inside + wire + 2 * math.ceil(math.log2(nodes)) * cluster.between.latency_seconds


def exposed_seconds(bucket_seconds: Sequence[float], bucket_bytes: Sequence[float], backward: float) -> float:
    """What of the buckets' crossing is left when the backward pass is over."""
    done, total, sent = 0.0, sum(bucket_bytes), 0.0
    for seconds, num_bytes in zip(bucket_seconds, bucket_bytes, strict=True):
        sent += num_bytes
        done = max(done, backward * sent / total) + seconds
    return max(0.0, done - backward)


def predict(
    work: Work, lanes: int, buckets: Sequence[float], ranks: int, cluster: Cluster
) -> dict[str, float]:
    """Of a step in which each rank has so many lanes: seconds, and the share of a rank's time that computes."""
    crossing = [cluster_seconds(num_bytes, ranks, cluster) if ranks > 1 else 0.0 for num_bytes in buckets]
    exposed = exposed_seconds(crossing, buckets, work.backward_seconds)
    alone = work.alone(lanes)
    return {
        "all_reduce_seconds": sum(crossing),
        "exposed_seconds": exposed,
        "step_seconds": alone + exposed,
        "efficiency": alone / (alone + exposed),
    }


def shortest_step(
    work: Work, buckets: Sequence[float], ranks: int, cluster: Cluster, efficiency: float
) -> float:
    """Seconds of one lane's step alone, of ranks so fast that the sum over ranks leaves just this efficiency.

    Slower ranks reach more. The parts of the step keep their shares, as measured on one rank.
    """
    slow, fast = 1e-6, 1e6  # times the measured speed
    for _ in range(60):
        middle = math.sqrt(slow * fast)
        reached = predict(work.faster(middle), 1, buckets, ranks, cluster)["efficiency"] >= efficiency
        slow, fast = (middle, fast) if reached else (slow, middle)
    return work.faster(slow).alone(1)


ENGINES = ("ddp", "ddp, bf16 hook", "zero1", "zero2", "zero3")


def bytes_sent(engine: str, num_parameters: int, ranks: int, lanes: int) -> float:
    """By one rank in one step of so many lanes, all parameters trained in float32.

    As DeepSpeed 0.19 does it with our settings: ZeRO 1 and 2 add gradients up with an all-reduce, not with the
    reduce-scatter of the paper (Rajbhandari et al., SC 2020), which would send half of that, and gather the updated
    weights; 2 does so in every lane. 3 scatters gradients in every lane and gathers the weights once in it, twice
    where the model has more parameters than `stage3_max_live_parameters`.
    """
    share = (ranks - 1) / ranks * 4 * num_parameters
    times = {"ddp": 2, "ddp, bf16 hook": 1, "zero1": 2 + 1, "zero2": 2 * lanes + 1, "zero3": 2 * lanes}
    return times[engine] * share
