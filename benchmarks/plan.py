"""The plan at the size of a very large archive: how fast it opens, and which shards a node touches.

    python -m benchmarks.plan [--shards 1000000] [--samples-per-shard 1000] [--nodes 1024] [--ranks 8]

No film is read: the plan knows only how many samples each shard has in each sampling group. Manifest and plan open in
a process of its own, whose peak memory (all of it, Python and NumPy included) is reported; beside it what a manifest
that lists its shards as JSON takes, at a tenth of the shards. Then every lane's stretch of the shards is looked up,
for every node. Results go into benchmarks/results/plan.json.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.plan_folder import Counts, sizes_of, write_listed, write_tabled
from cxr_dist.data.plan import Plan, group_weights
from cxr_dist.format.manifest import load_manifest
from cxr_dist.format.shard_list import column

GROUP_SHARES = (0.55, 0.25, 0.12, 0.05, 0.03)


def group_counts(shards: int, samples_per_shard: int) -> Counts:
    """[shards, groups] samples; shards have almost the same number of each group."""
    shares = np.floor(np.array(GROUP_SHARES) * samples_per_shard).astype(np.int64)
    counts = np.tile(shares, (shards, 1))
    counts[:, 0] += np.arange(shards) % 7
    return counts


def plan_of(counts: Counts, num_lanes: int) -> Plan:
    """A plan of weighted sampling."""
    return Plan(
        shard_group_counts=counts,
        weights=group_weights(counts.sum(axis=0), temper=1.0),
        global_batch=num_lanes * 16,
        micro_batch=16,
        seed=0,
    )


def open_once(folder: Path, num_lanes: int) -> dict[str, float]:
    """Seconds until the first window of a lane is resolved, from the files on, and the process's peak memory in MiB."""
    start = time.perf_counter()
    manifest = load_manifest(folder)
    read = time.perf_counter()
    plan = plan_of(column(manifest.split("train").shards, "group_counts"), num_lanes)
    plan.locate(0, plan.window_draws(0, 0, 0))
    stop = time.perf_counter()
    return {"manifest_seconds": read - start, "plan_seconds": stop - read, "peak_mib": peak_mib()}


def peak_mib() -> float:
    """Most memory of this process; rusage's figure would begin with that of the one that started it."""
    [line] = [each for each in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in each]
    return int(line.split()[1]) / 1024


def shards_per_node(plan: Plan, nodes: int, ranks: int, epoch: int) -> list[int]:
    """Number of shards that each node's lanes touch in an epoch."""
    world_size, length = nodes * ranks, plan.draws_per_lane
    lanes = np.arange(plan.num_lanes)
    order, _, _ = plan._epoch(epoch)
    place_of_shard = np.argsort(order)
    ends = [place_of_shard[plan.locate(epoch, lanes * length + at)[0]] for at in (0, length - 1)]
    node_of_lane = lanes % world_size // ranks
    touched = []
    for node in range(nodes):
        mine = node_of_lane == node
        stretches = [
            np.arange(first, last + 1) for first, last in zip(ends[0][mine], ends[1][mine], strict=True)
        ]
        touched.append(len(np.unique(np.concatenate(stretches))))
    return touched


def stream_of(plan: Plan, epoch: int) -> np.ndarray:
    """Sample numbers (0 to n - 1, in the order of storage) of an epoch, step by step, lane by lane; equal weights."""
    sizes = plan.shard_group_counts.sum(axis=1)
    first = np.concatenate([[0], np.cumsum(sizes)])
    lanes = []
    for lane in range(plan.num_lanes):
        windows = range(-(-plan.draws_per_lane // plan.window))
        draws = np.concatenate([plan.window_draws(epoch, lane, window) for window in windows])
        shards, places = plan.locate(epoch, draws)
        samples = np.empty_like(draws)
        for shard in np.unique(shards):
            order, mass = plan.sample_order(epoch, int(shard), np.zeros(sizes[shard], np.int16))
            inside = shards == shard
            samples[inside] = first[shard] + order[np.searchsorted(mass, places[inside], side="right")]
        lanes.append(samples.reshape(-1, plan.micro_batch))
    return np.stack(lanes, axis=1).ravel()


def shuffling(order: np.ndarray, before: np.ndarray, batch: int, per_shard: int) -> dict[str, float]:
    """How well an epoch is mixed; `order` and `before` are the samples of this epoch and of the one before.

    position_correlation: of a sample's place in the two epochs, 0 for unrelated.
    neighbour_distance: median distance of two samples that are stored side by side, as a share of the epoch.
    shards_per_batch: mean number of different shards in a global batch.
    """
    size = int(max(order.max(), before.max())) + 1
    place, earlier = np.full(size, -1), np.full(size, -1)
    place[order], earlier[before] = np.arange(len(order)), np.arange(len(before))
    both = (place >= 0) & (earlier >= 0)
    pairs = (place[:-1] >= 0) & (place[1:] >= 0)
    distance = np.abs(place[1:] - place[:-1])[pairs] / len(order)
    batches = (order[: len(order) // batch * batch] // per_shard).reshape(-1, batch)
    return {
        "position_correlation": float(np.corrcoef(place[both], earlier[both])[0, 1]),
        "neighbour_distance": float(np.median(distance)),
        "shards_per_batch": float(np.mean([len(set(row)) for row in batches.tolist()])),
    }


def shuffling_beside_a_permutation() -> dict[str, dict[str, float]]:
    """100 shards of 1,000 samples, global batch 256, windows of 8 shards, in 16 and in 2 lanes; and a permutation.

    In 16 lanes a lane is shorter than its window, and so shuffled whole; in 2 it is six times as long.
    """
    found = {}
    for lanes in (16, 2):
        plan = Plan(
            shard_group_counts=np.full((100, 1), 1000),
            weights=np.ones(1, np.int64),
            global_batch=256,
            micro_batch=256 // lanes,
            seed=0,
            shuffle_shards=8,
        )
        found[f"plan, {lanes} lanes"] = shuffling(stream_of(plan, 1), stream_of(plan, 0), 256, 1000)
    random = np.random.default_rng(0)
    before, order = (random.permutation(100_000)[: plan.num_draws] for _ in range(2))
    return found | {"full permutation": shuffling(order, before, 256, 1000)}


def measure_opening(folder: Path, num_lanes: int, repeats: int) -> list[dict[str, float]]:
    """`open_once` in processes of their own."""
    command = [sys.executable, "-m", "benchmarks.plan", "--open", str(folder), str(num_lanes)]
    return [
        json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        for _ in range(repeats)
    ]


def main() -> None:
    """Measure, print, write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shards", type=int, default=1_000_000)
    parser.add_argument("--samples-per-shard", type=int, default=1000)
    parser.add_argument("--nodes", type=int, default=1024)
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--lanes-per-rank", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--open", nargs=2, help="FOLDER LANES: open a plan and print what it took, as JSON")
    options = parser.parse_args()
    if options.open:
        print(json.dumps(open_once(Path(options.open[0]), int(options.open[1]))))
        return
    report(measure(options), {name: value for name, value in vars(options).items() if name != "open"})


def measure(options: argparse.Namespace) -> dict[str, object]:
    """Open the plan in fresh processes, look up every node's shards, and mix an epoch."""
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
    return found | {
        "shards_per_node": {
            "least": min(touched),
            "median": statistics.median(touched),
            "most": max(touched),
        },
        "bound_per_node": options.shards / options.nodes + 2 * options.ranks * options.lanes_per_rank,
        "shuffling": shuffling_beside_a_permutation(),
    }


def report(found: dict[str, object], options: dict[str, object]) -> None:
    """Print what was found, and write benchmarks/results/plan.json."""
    from benchmarks.hardware import describe_machine

    for name, value in found.items():
        print(f"{name:<18}{value}")
    result = {"what": "the plan of a very large archive", "options": options} | found
    path = Path(__file__).parent / "results" / "plan.json"
    path.write_text(json.dumps(result | {"machine": describe_machine()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
