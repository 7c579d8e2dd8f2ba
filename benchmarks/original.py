"""Training of the original notebook, and each step of the way to ours: the same encoders, films and reports.

    python -m benchmarks.original [--runs enhanced baseline] [--accumulate 1] [--turns 5] [--workers 0] [--no-compile]

First the training step alone, batches in memory: micro-batches of 8 at 224 pixels, reports of 32 to 128 tokens, random
weights. Then the whole loop, films from the disk: the notebook's PNGs of 2,048 pixels through PIL and its tokenizer,
and our shards of the same films. The ways take turns; medians of samples a second go into
benchmarks/results/original.json (original-cuda.json), and original_picture.py draws them into docs/speed.svg. An update
is of one micro-batch on a CPU, to save time; on a GPU of four, as in the notebook, and our last ways have larger ones.
torch.compile comes last; on a CPU it needs g++, and compiles for some minutes where its cache is empty.

The notebook's own pace on an A100 was 9.9 (enhanced) and 13.9 (baseline) batches of 8 a second.
"""

import argparse
import gc
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import torch

from benchmarks import original_picture
from benchmarks.hardware import describe_machine, result_path
from benchmarks.loader import make_shards, prepared
from benchmarks.original_ways import ORIGINAL, Way, step_ways, whole_loops

SHORT_SIDE = 256  # of the shards' films, pixels
SECTIONS = ("indication", "findings")
Rates = dict[str, list[float]]


def timed(way: Way, updates: int, device: torch.device) -> float:
    """Seconds of so many updates in a row."""
    start = time.perf_counter()
    for _ in range(updates):
        way.update()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(ways: dict[str, Way], options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Samples a second of each way, turn by turn; first kernels are chosen or compiled, and moments made."""
    first = {name: timed(way, 1, device) for name, way in ways.items()}
    rates: Rates = {name: [] for name in ways}
    for _ in range(options.turns):
        for name, way in ways.items():
            took = timed(way, options.updates, device)
            rates[name].append(options.updates * way.samples / took)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return {"first update, seconds": first, "rates": rates, "medians": medians}


def show(title: str, table: dict[str, Any]) -> None:
    """Print one table."""
    print(f"{title}: samples a second, median (lowest to highest), multiple of the original, first update")
    for name, values in table["rates"].items():
        median, first = table["medians"][name], table["first update, seconds"][name]
        spread = f"({min(values):.2f} to {max(values):.2f})"
        times = median / table["medians"][ORIGINAL]
        print(f"  {name:<26}{median:9.2f}  {spread:<22}{times:6.2f} × {first:8.1f} s", flush=True)


def measure_loops(run: str, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Both whole loops, over made films on the disk."""
    with tempfile.TemporaryDirectory() as folder:
        shards = make_shards(Path(folder), samples=options.films, side=SHORT_SIDE)
        with prepared(shards, SECTIONS, options.workers) as data:
            ways = whole_loops(run, device, data, options.accumulate, compiled=options.compile)
            return measure(ways, options, device)


def parse(device: torch.device) -> argparse.Namespace:
    """The options; what a device is fast enough for is the default."""
    cuda = device.type == "cuda"
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", nargs="+", default=["enhanced", "baseline"])
    parser.add_argument(
        "--accumulate", type=int, default=4 if cuda else 1, help="micro-batches of 8 an update"
    )
    parser.add_argument("--updates", type=int, default=20 if cuda else 1, help="in a row, in each turn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="on a CPU")
    parser.add_argument("--workers", type=int, default=8 if cuda else 0, help="of both loaders")
    parser.add_argument("--films", type=int, default=1024 if cuda else 64, help="in the shards")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    return parser.parse_args()


def main() -> None:
    """Measure each run, print the tables, write the result and the picture."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    options = parse(device)
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(0)
    torch._dynamo.config.automatic_dynamic_shapes = False  # each size of micro-batch is compiled for itself
    tables: dict[str, Any] = {}
    for run in options.runs:
        ways = step_ways(run, device, options.accumulate, compiled=options.compile)
        step = measure(ways, options, device)
        show(f"{run}, the step on {device.type}", step)
        del ways
        gc.collect()
        torch.compiler.reset()
        loop = measure_loops(run, options, device)
        show(f"{run}, the whole loop on {device.type}", loop)
        tables[run] = {"step": step, "whole loop": loop}
    result = {"what": "training, samples a second", "options": vars(options), "device": device.type}
    result |= {"runs": tables, "machine": describe_machine()}
    result_path("original", device).write_text(json.dumps(result, indent=1) + "\n")
    original_picture.draw()


if __name__ == "__main__":
    main()
