"""Compare the training speed of the original notebook and of this package, change by change.

    python -m benchmarks.original [--runs enhanced baseline] [--accumulate 1] [--turns 5] [--workers 0] [--no-compile]

All ways use the same encoders, images and reports. First the training step alone, with batches in memory: micro-batches
of 8 at 224 pixels, reports of 32 to 128 tokens, random weights. Then the whole loop, with images from the disk: the
notebook's PNGs of 2,048 pixels with PIL and its tokenizer, and shards of the same images. The ways take turns. An
update has one micro-batch on a CPU, to save time, and four on a GPU, as in the notebook; on a GPU the last ways have
larger micro-batches. torch.compile comes last; on a CPU it needs g++ and some minutes if its cache is empty.

Writes benchmarks/results/original.json (original-cuda.json); picture.py draws docs/images/speed.svg. The notebook
itself reached 9.9 (enhanced) and 13.9 (baseline) batches of 8 per second on an A100.
"""

import argparse
import gc
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import torch

from benchmarks.films import make_shards, prepared
from benchmarks.harness import arguments, in_turns, medians, show, this_device, timed, write_result
from benchmarks.original import picture
from benchmarks.original.ways import ORIGINAL, Way, step_ways, whole_loops

SHORT_SIDE = 256  # of the images in the shards, pixels


def measure(title: str, ways: dict[str, Way], options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Samples per second of each way, turn by turn, after a first update that compiles and creates the moments."""
    first = {name: timed(way.update, device) for name, way in ways.items()}

    def rate(way: Way) -> float:
        return options.updates * way.samples / timed(way.update, device, options.updates)

    rates = in_turns({name: partial(rate, way) for name, way in ways.items()}, options.turns, warm_up=0)
    middle = medians(rates)
    print(f"{title} on {device.type}: samples per second, median (lowest to highest), multiple of the original,")
    print("first update")
    show(rates, 2, lambda name: f"{middle[name] / middle[ORIGINAL]:6.2f} × {first[name]:8.1f} s")
    return {"first update, seconds": first, "rates": rates, "medians": middle}


def measure_loops(run: str, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Measure both whole loops over synthetic images on the disk."""
    with tempfile.TemporaryDirectory() as folder:
        shards = make_shards(Path(folder), options.films, SHORT_SIDE)
        with prepared(shards, options.workers) as data:
            ways = whole_loops(run, device, data, options.accumulate, compiled=options.compile)
            return measure(f"{run}, the whole loop", ways, options, device)


def parse(cuda: bool) -> argparse.Namespace:
    """The options; their defaults suit the device."""
    return arguments(
        __doc__,
        runs=["enhanced", "baseline"],
        accumulate=(4 if cuda else 1, "micro-batches of 8 per update"),
        updates=(20 if cuda else 1, "updates in each turn"),
        turns=5,
        threads=(2, "threads on a CPU"),
        workers=(8 if cuda else 0, "worker processes of both loaders"),
        films=(1024 if cuda else 64, "number of images in the shards"),
        compile=True,
    )


def main() -> None:
    """Measure each run, print the tables, and write the result and the picture."""
    device = this_device()
    options = parse(device.type == "cuda")
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(0)
    torch._dynamo.config.automatic_dynamic_shapes = False  # compile for every size of micro-batch
    tables: dict[str, Any] = {}
    for run in options.runs:
        ways = step_ways(run, device, options.accumulate, compiled=options.compile)
        step = measure(f"{run}, the step", ways, options, device)
        del ways
        gc.collect()
        torch.compiler.reset()
        tables[run] = {"step": step, "whole loop": measure_loops(run, options, device)}
    write_result("original", "training, samples a second", options, device, runs=tables)
    picture.draw()


if __name__ == "__main__":
    main()
