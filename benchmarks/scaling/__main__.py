"""Measure weak and strong scaling of the training step, and predict the scaling of larger clusters from it.

    python -m benchmarks.scaling [--micro-batch 1] [--lanes 4] [--turns 4] [--ranks 1,2,4]

The enhanced model (DenseNet-121 at 224 pixels, BERT-base, random weights) is trained with the package's step and
engine in processes under torchrun, with gloo and one thread each on the CPU, or with NCCL and one GPU each. Weak
scaling has one micro-batch per rank, strong scaling `--lanes` micro-batches over all ranks. Steps with and without the
sum of gradients over ranks show how much of it the backward pass hides. The model in model.py is fitted at 1 and 2
ranks and checked at the largest number of ranks. With this device's computing times it predicts 8 to 1,024 GPUs, and
for faster devices the shortest step of one micro-batch at which the network still costs at most a twentieth. Writes
benchmarks/results/scaling.json.
"""

import argparse
import dataclasses
import os
import statistics
from typing import Any

import torch

from benchmarks import page
from benchmarks.harness import arguments, found_by_ranks, this_device, write_result
from benchmarks.scaling.model import (
    ASSUMPTIONS,
    ENGINES,
    Cluster,
    Link,
    Work,
    bytes_sent,
    fit_link,
    predict,
    ring_seconds,
    shortest_step,
)  # fmt: skip
from benchmarks.scaling.ranks import SMALL_DEPTH, SMALL_WIDTH

Found = dict[str, Any]
GPUS_PER_NODE, LINK_SHARE = 8, 0.8
INSIDE = Link(bytes_per_second=LINK_SHARE * 450e9, latency_seconds=5e-6)  # NVLink 4, one direction
LATENCY_BETWEEN = 15e-6
NETWORKS = {"10 Gbit/s": 1.25e9, "100 Gbit/s": 12.5e9, "400 Gbit/s": 50e9, "8 × 400 Gbit/s": 400e9}
PREDICTED_RANKS = tuple(2**n for n in range(3, 11))
RANKS = "benchmarks.scaling.ranks"
STRONG_LANES = 1024
EFFICIENCY = 0.95  # efficiency of the predicted shortest step


def work_of(alone: Found) -> Work:
    """The work of one rank: the time of a step, divided in the ratio of its separately timed parts."""
    step = statistics.median(alone["weak"]["fp32"]["with"])
    parts = alone["parts"]
    share = {name: seconds / sum(parts.values()) for name, seconds in parts.items()}
    return Work(
        lane_seconds=step * (share["forward"] + share["backward"]),
        backward_seconds=step * share["backward"],
        update_seconds=step * share["update"],
    )


def overlap(found: Found) -> float:
    """The share of an all-reduce that the backward pass hides, 0 to 1."""
    exposed = statistics.median(found["with"]) - statistics.median(found["without"])
    return min(1.0, max(0.0, 1 - exposed / found["all_reduce_alone"]))


def check(by_ranks: dict[int, Found], cores: int) -> Found:
    """The fit at 1 and 2 ranks, and its prediction for the largest number of ranks beside the measurement."""
    two, most = by_ranks[2]["weak"]["fp32"], max(by_ranks)
    points = {int(size): seconds for size, seconds in by_ranks[2]["all_reduce_by_bytes"].items()}
    link, hidden = fit_link(list(points.items()), 2), overlap(two)
    crowding = max(1.0, most / cores)
    crossing = crowding * sum(ring_seconds(size, most, link) for size in two["buckets"])
    alone = statistics.median(by_ranks[1]["weak"]["fp32"]["with"])
    predicted = {"all-reduce alone": crossing, "step": crowding * alone + (1 - hidden) * crossing}
    last = by_ranks[most]["weak"]["fp32"]
    seen = {"all-reduce alone": last["all_reduce_alone"], "step": statistics.median(last["with"])}
    return {
        "link": dataclasses.asdict(link),
        "hidden_share_at_2": hidden,
        "ranks": most,
        "ranks_per_core": most / cores,
        "predicted_seconds": predicted,
        "measured_seconds": seen,
        "error": {name: predicted[name] / seen[name] - 1 for name in seen},
    }


def predictions(work: Work, buckets: list[float], micro_batch: int) -> list[Found]:
    """Predicted weak scaling, and strong scaling of STRONG_LANES micro-batches, by network and ranks."""
    rows = []
    for network, rate in NETWORKS.items():
        between = Link(bytes_per_second=LINK_SHARE * rate, latency_seconds=LATENCY_BETWEEN)
        cluster = Cluster(gpus_per_node=GPUS_PER_NODE, inside=INSIDE, between=between)
        for hook, size in (("none", 1.0), ("bf16", 0.5)):
            sent = [size * each for each in buckets]
            for ranks in PREDICTED_RANKS:
                weak = predict(work, 1, sent, ranks, cluster)
                strong = predict(work, STRONG_LANES // ranks, sent, ranks, cluster)
                row: Found = {"network": network, "comm_hook": hook, "ranks": ranks, "weak": weak}
                row["weak"]["samples_per_second"] = ranks * micro_batch / weak["step_seconds"]
                row["shortest_step_seconds"] = shortest_step(work, sent, ranks, cluster, EFFICIENCY)
                rows.append(row | {"strong": strong})
    return rows


def engines(counted: dict[str, dict[str, float]], num_parameters: int) -> Found:
    """Bytes sent per rank and step at 2 ranks: counted / formula for a small network, and the model's by formula."""
    small, found = SMALL_DEPTH * SMALL_WIDTH**2, {}
    for name in ENGINES:
        ratio = {n: sent / bytes_sent(name, small, 2, int(n)) for n, sent in counted.get(name, {}).items()}
        model = {lanes: bytes_sent(name, num_parameters, 2, lanes) for lanes in (1, 4)}
        found[name] = {"counted_over_formula_by_lanes": ratio, "model_bytes_by_formula_by_lanes": model}
    return found


def main() -> None:
    """Measure each number of ranks, fit, check and predict, and write and print the result."""
    device = this_device()
    cuda = device.type == "cuda"
    options = arguments(
        __doc__,
        micro_batch=16 if cuda else 1,
        lanes=(8 if cuda else 4, "micro-batches per step in strong scaling"),
        turns=20 if cuda else 4,
        ranks=("", "numbers of ranks, such as 1,2,4; default: up to the number of GPUs, or 1,2,4"),
        precision="bf16" if cuda else "fp32",
    )
    most = torch.cuda.device_count() if cuda else 4
    options.ranks = [int(n) for n in options.ranks.split(",") if n] or [n for n in (1, 2, 4, 8) if n <= most]
    report({ranks: found_by_ranks(ranks, RANKS, options) for ranks in options.ranks}, options, device)


def report(by_ranks: dict[int, Found], options: argparse.Namespace, device: torch.device) -> None:
    """Write the result and print the tables."""
    alone, work = by_ranks[1], work_of(by_ranks[1])
    buckets = by_ranks[2]["weak"]["fp32"]["buckets"] if 2 in by_ranks else alone["buckets_by_layout"]
    counted = by_ranks[2]["engines"] if 2 in by_ranks else {}
    checked = max(by_ranks) > 2 and device.type == "cpu"
    inside = dataclasses.asdict(INSIDE)
    found: Found = {
        "measured": by_ranks,
        "work_of_one_rank": dataclasses.asdict(work),
        "bytes_by_engine": engines(counted, alone["num_parameters"]),
        "check": check(by_ranks, os.cpu_count() or 1) if checked else None,
        "predicted": {
            "assumptions": ASSUMPTIONS,
            "links": {"share_of_nominal": LINK_SHARE, "inside": inside, "between": NETWORKS},
            "gpus_per_node": GPUS_PER_NODE,
            "latency_between_seconds": LATENCY_BETWEEN,
            "strong_lanes": STRONG_LANES,
            "efficiency_of_shortest_step": EFFICIENCY,
            "rows": predictions(work, buckets, options.micro_batch),
        },
    }
    write_result("scaling", "scaling of the training step; seconds and bytes", options, device, **found)
    page.show("scaling", device.type)
    for name, each in found["bytes_by_engine"].items():
        ratios = ", ".join(f"{ratio:.3f}" for ratio in each["counted_over_formula_by_lanes"].values())
        print(f"{name}: counted bytes / bytes by the formula, at 1 and 2 lanes: {ratios or '-'}")


if __name__ == "__main__":
    main()
