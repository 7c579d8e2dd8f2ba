"""A model that predicts the time of a training step on many ranks from measured times and from links.

The assumptions are listed in `ASSUMPTIONS`, which is written to the result file. All-reduce times are those of a ring
(Patarasuk and Yuan 2009) inside a node, and of rings with tree-like latency between nodes, in which each GPU of a node
has its own slice, as in NCCL. Links reach a fixed share of their nominal rate.
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
    """A connection between ranks of a ring."""

    bytes_per_second: float
    """The usable rate in one direction."""
    latency_seconds: float
    """The latency of one message."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A cluster of nodes with GPUs."""

    gpus_per_node: int
    inside: Link
    """The link between two GPUs of a node."""
    between: Link
    """The link between two nodes, with all their network cards together."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """The work of a rank in a step, measured on one rank alone."""

    lane_seconds: float
    """Forward and backward pass of a micro-batch."""
    backward_seconds: float
    """The backward pass alone, which can hide communication."""
    update_seconds: float
    """All work that is done once per step."""

    def faster(self, times: float) -> "Work":
        """The same work on a rank that is `times` times as fast."""
        return Work(
            lane_seconds=self.lane_seconds / times,
            backward_seconds=self.backward_seconds / times,
            update_seconds=self.update_seconds / times,
        )

    def alone(self, lanes: int) -> float:
        """Seconds of a step of `lanes` lanes without other ranks."""
        return lanes * self.lane_seconds + self.update_seconds


def ring_seconds(num_bytes: float, ranks: int, link: Link) -> float:
    """Seconds of a ring all-reduce, in which each rank sends 2 (W - 1) messages of 1 / W of the bytes."""
    messages = 2 * (ranks - 1)
    return messages * (num_bytes / ranks / link.bytes_per_second + link.latency_seconds)


def fit_link(points: Sequence[tuple[float, float]], ranks: int) -> Link:
    """The link that best explains all-reduces of `ranks` ranks, by relative error.

    Args:
        points: Pairs of bytes and measured seconds, for at least two sizes.
    """
    sizes, seconds = np.array(points, dtype=float).T
    messages = 2 * (ranks - 1)
    terms = np.stack([messages * sizes / ranks, np.full_like(sizes, messages)], axis=1)
    (per_byte, latency), *_ = np.linalg.lstsq(terms / seconds[:, None], np.ones_like(seconds))
    return Link(bytes_per_second=1 / max(per_byte, 1e-15), latency_seconds=max(float(latency), 0.0))


def cluster_seconds(num_bytes: float, ranks: int, cluster: Cluster) -> float:
    """Seconds of an all-reduce over nodes; the latency between nodes grows with the logarithm of their number."""
    local = min(ranks, cluster.gpus_per_node)
    nodes = math.ceil(ranks / cluster.gpus_per_node)
    inside = ring_seconds(num_bytes, local, cluster.inside)
    wire = 2 * (nodes - 1) / nodes * num_bytes / cluster.between.bytes_per_second
    return inside + wire + 2 * math.ceil(math.log2(nodes)) * cluster.between.latency_seconds


def exposed_seconds(bucket_seconds: Sequence[float], bucket_bytes: Sequence[float], backward: float) -> float:
    """Seconds of the buckets' all-reduces that remain after the end of the backward pass."""
    done, total, sent = 0.0, sum(bucket_bytes), 0.0
    for seconds, num_bytes in zip(bucket_seconds, bucket_bytes, strict=True):
        sent += num_bytes
        done = max(done, backward * sent / total) + seconds
    return max(0.0, done - backward)


def predict(work: Work, lanes: int, buckets: Sequence[float], ranks: int, cluster: Cluster) -> dict[str, float]:
    """The seconds of a step with `lanes` lanes per rank, and its efficiency: the share of time spent computing."""
    crossing = [cluster_seconds(num_bytes, ranks, cluster) if ranks > 1 else 0.0 for num_bytes in buckets]
    exposed = exposed_seconds(crossing, buckets, work.backward_seconds)
    alone = work.alone(lanes)
    return {
        "all_reduce_seconds": sum(crossing),
        "exposed_seconds": exposed,
        "step_seconds": alone + exposed,
        "efficiency": alone / (alone + exposed),
    }


def shortest_step(work: Work, buckets: Sequence[float], ranks: int, cluster: Cluster, efficiency: float) -> float:
    """Seconds that a step of one lane takes on one rank, if the ranks are so fast that they just reach this efficiency.

    Slower ranks are more efficient. The parts of the step keep their measured shares.
    """
    slow, fast = 1e-6, 1e6  # times the measured speed
    for _ in range(60):
        middle = math.sqrt(slow * fast)
        reached = predict(work.faster(middle), 1, buckets, ranks, cluster)["efficiency"] >= efficiency
        slow, fast = (middle, fast) if reached else (slow, middle)
    return work.faster(slow).alone(1)


ENGINES = ("ddp", "ddp, bf16 hook", "zero1", "zero2", "zero3")


def bytes_sent(engine: str, num_parameters: int, ranks: int, lanes: int) -> float:
    """Bytes that one rank sends in a step of `lanes` lanes, if all parameters are trained in float32.

    These are the bytes of DeepSpeed 0.19 with the package's settings: ZeRO 1 and 2 add gradients up with an
    all-reduce, not with the reduce-scatter of the paper (Rajbhandari et al., SC 2020), which would send half as much,
    and gather the updated weights. ZeRO 2 sums gradients in every lane. ZeRO 3 scatters gradients and gathers the
    weights once in every lane, or twice if the model has more parameters than `stage3_max_live_parameters`.
    """
    share = (ranks - 1) / ranks * 4 * num_parameters
    times = {"ddp": 2, "ddp, bf16 hook": 1, "zero1": 2 + 1, "zero2": 2 * lanes + 1, "zero3": 2 * lanes}
    return times[engine] * share
