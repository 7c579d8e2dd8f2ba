"""Measure the plan of a very large archive: how fast it opens, and how many shards a node touches.

    python -m benchmarks.plan [--shards 1000000] [--samples-per-shard 1000] [--nodes 1024] [--ranks 8]

No image is read, because the plan needs only the number of samples of each sampling group in every shard. A separate
process opens manifest and plan and reports its peak memory, which includes Python and NumPy. For comparison, a
manifest that lists its shards as JSON is opened with a tenth of the shards. Then the shards that every node reads in
an epoch are looked up. Writes benchmarks/results/plan.json.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.harness import arguments, write_result
from benchmarks.plan.folder import Counts, plan_of, sizes_of, write_listed, write_tabled
from benchmarks.plan.shuffling import shuffling_beside_a_permutation
from cxr_dist.data.plan import Plan

GROUP_SHARES = (0.55, 0.25, 0.12, 0.05, 0.03)


def group_counts(shards: int, samples_per_shard: int) -> Counts:
    """The samples of each group in each shard, int64 [shards, groups]; almost the same in all shards."""
    shares = np.floor(np.array(GROUP_SHARES) * samples_per_shard).astype(np.int64)
    counts = np.tile(shares, (shards, 1))
    counts[:, 0] += np.arange(shards) % 7
    return counts


def shards_per_node(plan: Plan, nodes: int, ranks: int, epoch: int) -> list[int]:
    """The number of shards that the lanes of each node read in an epoch."""
    world_size, length = nodes * ranks, plan.draws_per_lane
    lanes = np.arange(plan.num_lanes)
    order, _, _ = plan._epoch(epoch)
    place_of_shard = np.argsort(order)
    ends = [place_of_shard[plan.locate(epoch, lanes * length + at)[0]] for at in (0, length - 1)]
    node_of_lane = lanes % world_size // ranks
    touched = []
    for node in range(nodes):
        mine = node_of_lane == node
        stretches = [np.arange(first, last + 1) for first, last in zip(ends[0][mine], ends[1][mine], strict=True)]
        touched.append(len(np.unique(np.concatenate(stretches))))
    return touched


def measure_opening(folder: Path, num_lanes: int, repeats: int) -> list[dict[str, float]]:
    """The output of opening.py in `repeats` processes."""
    command = [sys.executable, "-m", "benchmarks.plan.opening", str(folder), str(num_lanes)]
    return [
        json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout) for _ in range(repeats)
    ]


def measure(options: argparse.Namespace) -> dict[str, object]:
    """Open the plan in new processes, look up every node's shards, and shuffle an epoch."""
    num_lanes = options.nodes * options.ranks * options.lanes_per_rank
    counts = group_counts(options.shards, options.samples_per_shard)
    found: dict[str, object] = {"samples": int(counts.sum())}
    with tempfile.TemporaryDirectory() as folder:
        tabled, listed = Path(folder) / "tabled", Path(folder) / "listed"
        write_tabled(tabled, counts)
        found["table"] = sizes_of(tabled) | {"opened": measure_opening(tabled, num_lanes, options.repeats)}
        some = counts[: options.shards // 10]
        write_listed(listed, some)
        opened = measure_opening(listed, num_lanes, options.repeats)
        found["list of a tenth"] = {"shards": len(some)} | sizes_of(listed) | {"opened": opened}
    plan = plan_of(counts, num_lanes)
    touched = shards_per_node(plan, options.nodes, options.ranks, epoch=0)
    spread = {"least": min(touched), "median": statistics.median(touched), "most": max(touched)}
    return found | {
        "shards_per_node": spread,
        "bound_per_node": options.shards / options.nodes + 2 * options.ranks * options.lanes_per_rank,
        "shuffling": shuffling_beside_a_permutation(),
    }


def main() -> None:
    """Measure, print and write the result."""
    options = arguments(
        __doc__,
        shards=1_000_000,
        samples_per_shard=1000,
        nodes=1024,
        ranks=8,
        lanes_per_rank=2,
        repeats=5,
    )
    found = measure(options)
    for name, value in found.items():
        print(f"{name:<18}{value}")
    write_result("plan", "the plan of a very large archive", options, **found)


if __name__ == "__main__":
    main()
