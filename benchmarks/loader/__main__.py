"""Measure training samples per second: of this package, of other libraries on the same images, and of decoding.

    python -m benchmarks.loader [--sides 256 512] [--samples 960] [--repeats 5] [--workers 0 2]
    python -m benchmarks.loader --shards SHARDS --sections findings       (your own images)

Synthetic images of each short side are sharded into a temporary folder. All readers get the same images and reports,
in batches of 16, at 224×224 pixels, with training augmentation (see peers.py). With 0 workers a reader uses one process
and one core. The readers take turns. Writes benchmarks/results/loader.json (loader-own.json with --shards).
"""

import importlib.util
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.films import SECTIONS, Data, make_shards, prepared, stream
from benchmarks.harness import arguments, in_turns, medians, show, timed, write_result
from benchmarks.loader import peers
from benchmarks.loader.peers import BATCH, SIZE, Reader
from cxr_dist.format.manifest import load_manifest

OURS, ORIGINAL, DECODING = "cxr_dist", "original notebook", "decoding alone (grey)"
FEW = 48  # images per turn of the original notebook, which is much slower
Rates = dict[str, list[float]]


def ours(data: Data) -> Reader:
    """The package's training stream."""
    return peers.drained(lambda: stream(data.config(BATCH, SIZE), data.tokenizer))


def decoding_alone(data: Data) -> Reader:
    """Decodes the same JPEGs from memory to grey pixels on one core, which is the upper bound."""
    images = [sample["jpg"] for sample in data.samples()]

    def read(samples: int) -> None:
        for number in range(samples):
            cv2.imdecode(np.frombuffer(images[number % len(images)], np.uint8), cv2.IMREAD_GRAYSCALE)

    return read


def readers(data: Data, full_side: int) -> dict[str, Reader]:
    """The readers by name; those whose library is not installed are left out."""
    makers: dict[str, Callable[[Data], Reader]] = {
        OURS: ours,
        "webdataset + torchvision v2": peers.stock_webdataset,
        ORIGINAL: lambda data: peers.original(data, full_side),
    }
    if importlib.util.find_spec("streaming"):
        makers["MosaicML streaming + v2"] = peers.mosaicml_streaming
    if importlib.util.find_spec("litdata"):
        makers["litdata + v2"] = peers.litdata
    if data.workers == 0:
        makers[DECODING] = decoding_alone
    return {name: make(data) for name, make in makers.items()}


def measure(data: Data, samples: int, repeats: int, full_side: int) -> Rates:
    """Samples per second of each reader in `repeats` turns, after a turn that warms up."""

    def rate(read: Reader, some: int) -> float:
        return some / timed(partial(read, some))

    ways = {
        name: partial(rate, read, min(samples, FEW) if name == ORIGINAL else samples)
        for name, read in readers(data, full_side).items()
    }
    return in_turns(ways, repeats)


def main() -> None:
    """Measure every size and number of workers, print the tables and write the result."""
    options = arguments(
        __doc__,
        samples=960,
        repeats=5,
        sides=[256, 512],
        workers=[0, 2],
        full_side=(2048, "side of the original notebook's PNGs in pixels"),
        shards=(Path, "your own shards instead of synthetic images"),
        sections=list(SECTIONS),
    )
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    tables = []
    with tempfile.TemporaryDirectory() as name:
        folders = {"own": options.shards} if options.shards else {}
        for side in [] if options.shards else options.sides:
            (Path(name) / str(side)).mkdir()
            folders[f"{side} px"] = make_shards(Path(name) / str(side), options.samples, side)
        for title, shards in folders.items():
            samples = min(options.samples, load_manifest(shards).split("train").samples) // BATCH * BATCH
            for workers in options.workers:
                with prepared(shards, workers, tuple(options.sections)) as data:
                    rates = measure(data, samples, options.repeats, options.full_side)
                print(f"{title}, {samples} images, {workers or 'no'} workers: samples/s, median (lowest to")
                print("highest), and cxr_dist as a multiple of it")
                middle = medians(rates)
                show(rates, 0, lambda name, middle=middle: f"{middle[OURS] / middle[name]:6.2f}")
                tables.append({"films": title, "samples": samples, "workers": workers, "rates": rates})
    write_result("loader-own" if options.shards else "loader", "training samples per second", tables=tables)


if __name__ == "__main__":
    main()
