"""Weak and strong scaling of the training step, what crosses ranks, and a model of larger clusters fitted to it.

    python -m benchmarks.scaling [--micro-batch 1] [--lanes 4] [--turns 4] [--ranks 1,2,4]

The enhanced model (DenseNet-121 at 224 pixels, BERT-base, random weights) in the package's own step and engine, real
processes under torchrun: gloo and one thread each on the CPU, or NCCL and a GPU each. Weak: one micro-batch on each
rank. Strong: `--lanes` micro-batches over all ranks. A step with and without the sum of gradients over ranks tells
what of it the backward pass hides. The model (scaling_model.py: assumptions) is checked at the largest number of ranks
from a fit at 1 and 2, and then predicts 8 to 1,024 GPUs with the computing times measured on this device; and, for
faster devices, how short a step of one micro-batch may be before the network costs more than a twentieth.
Measurements and predictions go apart into benchmarks/results/scaling.json.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.hardware import describe_machine, result_path
from benchmarks.scaling_model import (
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
from benchmarks.scaling_ranks import SMALL_DEPTH, SMALL_WIDTH

Found = dict[str, Any]
GPUS_PER_NODE, LINK_SHARE = 8, 0.8
INSIDE = Link(bytes_per_second=LINK_SHARE * 450e9, latency_seconds=5e-6)  # NVLink 4, one direction
LATENCY_BETWEEN = 15e-6
NETWORKS = {"10 Gbit/s": 1.25e9, "100 Gbit/s": 12.5e9, "400 Gbit/s": 50e9, "8 × 400 Gbit/s": 400e9}
PREDICTED_RANKS = tuple(2**n for n in range(3, 11))
STRONG_LANES = 1024
EFFICIENCY = 0.95  # for which the shortest step is predicted


def measured(ranks: int, options: argparse.Namespace) -> Found:
    """Start the ranks, wait for them, and read what rank 0 wrote."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [*launcher, "-m", "benchmarks.scaling_ranks", str(out), json.dumps(vars(options))]
        subprocess.run(command, check=True, env=environment, stdout=sys.stderr)
        found: Found = json.loads(out.read_text())
    return found


def work_of(alone: Found) -> Work:
    """What one rank spends by itself: a whole step, divided as its parts were when they were timed one by one."""
    step = statistics.median(alone["weak"]["fp32"]["with"])
    parts = alone["parts"]
    share = {name: seconds / sum(parts.values()) for name, seconds in parts.items()}
    return Work(
        lane_seconds=step * (share["forward"] + share["backward"]),
        backward_seconds=step * share["backward"],
        update_seconds=step * share["update"],
    )


def overlap(found: Found) -> float:
    """Share of an all-reduce that the backward pass hides, 0 to 1."""
    exposed = statistics.median(found["with"]) - statistics.median(found["without"])
    return min(1.0, max(0.0, 1 - exposed / found["all_reduce_alone"]))


def check(by_ranks: dict[int, Found], cores: int) -> Found:
    """The fit at 1 and 2 ranks, and what it says of the largest number of ranks beside what was measured there."""
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
    """Rows: weak scaling, and strong scaling of a batch of STRONG_LANES micro-batches, by network and ranks."""
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
    """Bytes a rank sends in a step at 2 ranks: counted over by formula (small network), and the real model's."""
    small, found = SMALL_DEPTH * SMALL_WIDTH**2, {}
    for name in ENGINES:
        ratio = (
            {n: counted[name][n] / bytes_sent(name, small, 2, int(n)) for n in counted[name]}
            if counted
            else {}
        )
        model = {lanes: bytes_sent(name, num_parameters, 2, lanes) for lanes in (1, 4)}
        found[name] = {"counted_over_formula_by_lanes": ratio, "model_bytes_by_formula_by_lanes": model}
    return found


def main() -> None:
    """Measure each number of ranks, fit, check, predict, print, write."""
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--micro-batch", type=int, default=16 if cuda else 1)
    parser.add_argument(
        "--lanes", type=int, default=8 if cuda else 4, help="micro-batches of a step in strong scaling"
    )
    parser.add_argument("--turns", type=int, default=20 if cuda else 4)
    parser.add_argument("--ranks", type=lambda text: [int(n) for n in text.split(",")], default=None)
    parser.add_argument("--precision", default="bf16" if cuda else "fp32")
    options = parser.parse_args()
    most = torch.cuda.device_count() if cuda else 4
    options.ranks = options.ranks or [n for n in (1, 2, 4, 8) if n <= most]
    by_ranks = {ranks: measured(ranks, options) for ranks in options.ranks}
    report(by_ranks, options, cuda)


def report(by_ranks: dict[int, Found], options: argparse.Namespace, cuda: bool) -> None:
    """Print the tables, and write benchmarks/results/scaling.json."""
    alone, work = by_ranks[1], work_of(by_ranks[1])
    buckets = by_ranks[2]["weak"]["fp32"]["buckets"] if 2 in by_ranks else alone["buckets_by_layout"]
    counted = by_ranks[2]["engines"] if 2 in by_ranks else {}
    result: Found = {
        "what": "scaling of the training step; seconds and bytes",
        "options": vars(options),
        "device": "cuda" if cuda else "cpu",
        "measured": by_ranks,
        "work_of_one_rank": dataclasses.asdict(work),
        "bytes_by_engine": engines(counted, alone["num_parameters"]),
        "check": check(by_ranks, os.cpu_count() or 1) if max(by_ranks) > 2 and not cuda else None,
        "predicted": {
            "assumptions": ASSUMPTIONS,
            "links": {
                "share_of_nominal": LINK_SHARE,
                "inside": dataclasses.asdict(INSIDE),
                "between": NETWORKS,
            },
            "gpus_per_node": GPUS_PER_NODE,
            "latency_between_seconds": LATENCY_BETWEEN,
            "strong_lanes": STRONG_LANES,
            "efficiency_of_shortest_step": EFFICIENCY,
            "rows": predictions(work, buckets, options.micro_batch),
        },
        "machine": describe_machine(),
    }
    print_measured(by_ranks, result)
    print_predicted(result["predicted"], result["device"])
    path = result_path("scaling", torch.device(result["device"]))
    path.write_text(json.dumps(result, indent=1) + "\n")


def print_measured(by_ranks: dict[int, Found], result: Found) -> None:
    """Steps by number of ranks, what crosses, engines, and the check."""
    print(f"measured on {result['device']}: seconds a step, median; efficiency against one rank")
    first = {kind: statistics.median(_steps(by_ranks[1], kind)) for kind in ("weak", "strong")}
    for ranks, found in by_ranks.items():
        weak, strong = (statistics.median(_steps(found, kind)) for kind in ("weak", "strong"))
        shares = f"{first['weak'] / weak:7.0%}{strong:12.3f}{first['strong'] / strong / ranks:7.0%}"
        print(f"  {ranks} ranks  weak {weak:8.3f}{shares}  (weak, strong)")
        for name, each in found["weak"].items() if ranks > 1 else ():
            bare = statistics.median(each["without"])
            print(
                f"      {name:<26} step {statistics.median(each['with']):7.3f}, without sum {bare:7.3f}, sum alone "
                f"{each['all_reduce_alone']:6.3f} in {len(each['buckets'])} buckets, hidden {overlap(each):4.0%}, "
                f"a rank sends {each['bytes_sent'] / 1e6:.0f} MB"
            )
    for name, each in result["bytes_by_engine"].items():
        ratios = ", ".join(f"{value:.3f}" for value in each["counted_over_formula_by_lanes"].values())
        sent = ", ".join(f"{value / 1e6:.0f}" for value in each["model_bytes_by_formula_by_lanes"].values())
        print(
            f"  {name:<16} counted / formula at 1, 2 lanes: {ratios or '-'}; model, 1 and 4 lanes: {sent} MB"
        )
    if found := result["check"]:
        for name, seconds in found["predicted_seconds"].items():
            seen, error = found["measured_seconds"][name], found["error"][name]
            print(
                f"  at {found['ranks']} ranks, {name}: from 1 and 2 {seconds:.3f}, seen {seen:.3f} ({error:+.0%})"
            )


def _steps(found: Found, kind: str) -> list[float]:
    seconds: list[float] = found["strong"] if kind == "strong" else found["weak"]["fp32"]["with"]
    return seconds


def print_predicted(predicted: Found, device: str) -> None:
    """All-reduce, weak and strong efficiency, and the shortest step, by network, hook and ranks."""
    print(f"PREDICTED, not measured: ranks that compute as one here ({device}), {GPUS_PER_NODE} a node")
    for line in predicted["assumptions"]:
        print(f"    assumed: {line}")
    print(f"  {'network of a node, hook':<30}" + "".join(f"{ranks:>11}" for ranks in PREDICTED_RANKS))
    rows = predicted["rows"]
    for start in range(0, len(rows), len(PREDICTED_RANKS)):
        line = rows[start : start + len(PREDICTED_RANKS)]
        print(f"  {line[0]['network']}, {line[0]['comm_hook']}")
        times = "".join(f"{1e3 * row['weak']['all_reduce_seconds']:>11.1f}" for row in line)
        cells = "".join(
            f"{row['weak']['efficiency']:>6.0%}/{row['strong']['efficiency']:>4.0%}" for row in line
        )
        print(f"    {'all-reduce, ms':<28}{times}\n    {'weak / strong efficiency':<28}{cells}")
        steps = "".join(f"{1e3 * row['shortest_step_seconds']:>11.1f}" for row in line)
        print(f"    {f'step for {EFFICIENCY:.0%} weak, ms':<28}{steps}")


if __name__ == "__main__":
    main()
