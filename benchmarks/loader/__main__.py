"""Training samples per second: ours, other libraries on the same films, and decoding alone.

    python -m benchmarks.loader [--sides 256 512] [--samples 960] [--repeats 5] [--workers 0 2]
    python -m benchmarks.loader --shards SHARDS --sections findings       (films of one's own)

Made films of each short side are sharded into a temporary folder. All readers see the same films and reports, in
batches of 16, 224×224 pixels, with training augmentation (peers.py). 0 workers is one core and one process.
They take turns; medians and their spread go into benchmarks/results/loader.json (loader-own.json with --shards).
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
FEW = 48  # films a turn of the original notebook, which is a hundred times slower
Rates = dict[str, list[float]]


def ours(data: Data) -> Reader:
    """The package's training stream."""
    return peers.drained(lambda: stream(data.config(BATCH, SIZE), data.tokenizer))


def decoding_alone(data: Data) -> Reader:
    """The same JPEGs from memory to grey pixels, and nothing else, on one core: the ceiling."""
    films = [sample["jpg"] for sample in data.samples()]

    def read(samples: int) -> None:
        for number in range(samples):
            cv2.imdecode(np.frombuffer(films[number % len(films)], np.uint8), cv2.IMREAD_GRAYSCALE)

    return read


def readers(data: Data, full_side: int) -> dict[str, Reader]:
    """Name -> reader, for all that is installed."""
    found: dict[str, Callable[[Data], Reader]] = {
        OURS: ours,
        "webdataset + torchvision v2": peers.stock_webdataset,
        ORIGINAL: lambda data: peers.original(data, full_side),
    }
    if importlib.util.find_spec("streaming"):
        found["MosaicML streaming + v2"] = peers.mosaicml_streaming
    if importlib.util.find_spec("litdata"):
        found["litdata + v2"] = peers.litdata
    if data.workers == 0:
        found[DECODING] = decoding_alone
    return {name: make(data) for name, make in found.items()}


def measure(data: Data, samples: int, repeats: int, full_side: int) -> Rates:
    """Samples per second of each reader, `repeats` times, in turns; the first turn warms up and is not counted."""

    def rate(read: Reader, some: int) -> float:
        return some / timed(partial(read, some))

    ways = {
        name: partial(rate, read, min(samples, FEW) if name == ORIGINAL else samples)
        for name, read in readers(data, full_side).items()
    }
    return in_turns(ways, repeats)


def main() -> None:
    """Measure every size and number of workers, print the tables, write the result."""
    options = arguments(
        __doc__,
        samples=960,
        repeats=5,
        sides=[256, 512],
        workers=[0, 2],
        full_side=(2048, "of the original notebook's PNGs, pixels"),
        shards=(Path, "your own shards instead of made films"),
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
                print(f"{title}, {samples} films, {workers or 'no'} workers: samples/s, median (lowest to")
                print("highest), and ours as a multiple")
                middle = medians(rates)
                show(rates, 0, lambda name, middle=middle: f"{middle[OURS] / middle[name]:6.2f}")
                tables.append({"films": title, "samples": samples, "workers": workers, "rates": rates})
    write_result("loader-own" if options.shards else "loader", "training samples per second", tables=tables)


if __name__ == "__main__":
    main()
