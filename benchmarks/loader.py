"""Training samples per second: ours, other libraries on the same films, and decoding alone.

    python -m benchmarks.loader [--sides 256 512] [--samples 960] [--repeats 5] [--workers 0 2]
    python -m benchmarks.loader --shards SHARDS --sections findings       (films of one's own)

Made films of each short side are sharded into a temporary folder. All readers see the same films and reports, in
batches of 16, 224×224 pixels, with training augmentation (loader_peers.py). 0 workers is one core and one process.
They take turns; medians and their spread go into benchmarks/results/loader.json (loader-own.json with --shards).
"""

import argparse
import importlib.util
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks import loader_peers as peers
from benchmarks.hardware import describe_machine
from benchmarks.loader_peers import BATCH, MAX_TOKENS, SIZE, Data, Reader
from cxr_dist.config.data import DataConfig
from cxr_dist.data.loader import training_batches, training_plan
from cxr_dist.data.text import ReportTokenizer, prepare_text_folder
from cxr_dist.format.manifest import load_manifest
from cxr_dist.shard.recipe import load_recipe
from cxr_dist.shard.write import write_shards

RECIPE = """
reader: demo
demo: {{studies: {studies}, side: {side}, seed: 0}}
labels:
  task: multiclass
  classes: {{Normal: normal, Cardiomegaly: cardiomegaly, Effusion: effusion, Opacity: opacity, Nodule: nodule}}
split: {{by: patient, train: 0.9, val: 0.05, test: 0.05, seed: 0}}
image: {{short_side: {side}, quality: 92}}
shard: {{samples: 64}}
"""
OURS, ORIGINAL, DECODING = "cxr_dist", "original notebook", "decoding alone (grey)"
FEW = 48  # films a turn of the original notebook, which is a hundred times slower
Rates = dict[str, list[float]]


def make_shards(folder: Path, samples: int, side: int) -> Path:
    """Made films and reports, at least `samples` of them in the training split."""
    (folder / "recipe.yaml").write_text(RECIPE.format(studies=samples, side=side))
    write_shards(load_recipe(folder / "recipe.yaml"), None, folder / "shards", workers=2)
    return folder / "shards"


def ours(data: Data) -> Reader:
    """The package's training stream."""
    config = DataConfig(
        shards=str(data.shards),
        global_batch=BATCH,
        micro_batch=BATCH,
        workers=data.workers,
        image_size=SIZE,
        text_sections=data.sections,
    )
    manifest = load_manifest(data.shards)
    plan = training_plan(config, manifest, seed=0)
    return peers.drained(
        lambda: training_batches(
            config, manifest, plan, lanes=range(1), first_step=0, tokenizer=data.tokenizer, with_images=True
        )
    )


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


@contextmanager
def prepared(shards: Path, sections: tuple[str, ...], workers: int) -> Iterator[Data]:
    """The shards, and a tokenizer learned from their reports."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bare = Data(
            folder=folder,
            shards=shards,
            sections=sections,
            tokenizer=None,
            workers=workers,  # type: ignore[arg-type]
        )
        prepare_text_folder(folder / "text", None, (sample["text"] for sample in bare.samples()))
        tokenizer = ReportTokenizer(folder / "text", MAX_TOKENS)
        yield Data(folder=folder, shards=shards, sections=sections, tokenizer=tokenizer, workers=workers)


def measure(data: Data, samples: int, repeats: int, full_side: int) -> Rates:
    """Samples per second of each reader, `repeats` times, in turns; the first turn warms up and is not counted."""
    compared = readers(data, full_side)
    rates: Rates = {name: [] for name in compared}
    for turn in range(repeats + 1):
        for name, read in compared.items():
            some = min(samples, FEW) if name == ORIGINAL else samples
            start = time.perf_counter()
            read(some)
            if turn:
                rates[name].append(some / (time.perf_counter() - start))
    return rates


def show(title: str, rates: Rates) -> None:
    """Print one table."""
    medians = {name: statistics.median(values) for name, values in rates.items()}
    print(f"{title}: samples/s, median (lowest to highest), and ours as a multiple")
    for name, values in rates.items():
        spread = f"({min(values):.0f} to {max(values):.0f})"
        print(f"  {name:<30}{medians[name]:8.0f}  {spread:<18}{medians[OURS] / medians[name]:6.2f}")


def main() -> None:
    """Measure every size and number of workers, print the tables, write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=960)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sides", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--full-side", type=int, default=2048, help="of the original notebook's PNGs, pixels")
    parser.add_argument("--shards", type=Path, help="your own shards instead of made films")
    parser.add_argument("--sections", nargs="+", default=["indication", "findings"])
    options = parser.parse_args()
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
                with prepared(shards, tuple(options.sections), workers) as data:
                    rates = measure(data, samples, options.repeats, options.full_side)
                show(f"{title}, {samples} films, {workers or 'no'} workers", rates)
                tables.append({"films": title, "samples": samples, "workers": workers, "rates": rates})
    result = {"what": "training samples per second", "tables": tables, "machine": describe_machine()}
    name = "loader-own.json" if options.shards else "loader.json"
    (Path(__file__).parent / "results" / name).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
