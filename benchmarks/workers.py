"""Loader workers: seconds to the first batch, and the memory that each has of its own over many samples.

    python -m benchmarks.workers [--samples 100000] [--workers 2]

Made films of 64 pixels, text included. A worker is forked from the training process and shares its pages until one of
them is written to: `private` is what a worker has alone, `resident` counts shared pages as well (from /proc). Results
go into benchmarks/results/workers.json.
"""

import argparse
import json
import multiprocessing
import tempfile
import time
from pathlib import Path

from benchmarks.hardware import describe_machine
from benchmarks.loader import make_shards, prepared
from cxr_dist.config.data import DataConfig
from cxr_dist.data.loader import training_batches, training_plan
from cxr_dist.format.manifest import load_manifest

BATCH, SIDE, POINTS = 64, 64, 10


def memory_of(pid: int) -> dict[str, float]:
    """Private and resident memory of a process, MiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return {"private": (kib["Private_Clean"] + kib["Private_Dirty"]) / 1024, "resident": kib["Rss"] / 1024}


def main() -> None:
    """Measure, print, write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        shards = make_shards(Path(name), 960, SIDE)
        with prepared(shards, ("indication", "findings"), options.workers) as data:
            config = DataConfig(
                shards=str(shards),
                global_batch=BATCH,
                micro_batch=BATCH,
                workers=options.workers,
                image_size=SIDE,
                text_sections=data.sections,
            )
            manifest = load_manifest(shards)
            plan = training_plan(config, manifest, seed=0)
            start = time.perf_counter()
            stream = training_batches(
                config,
                manifest,
                plan,
                lanes=range(1),
                first_step=0,
                tokenizer=data.tokenizer,
                with_images=True,
            )
            next(stream)
            first = time.perf_counter() - start
            points: list[tuple[int, list[dict[str, float]]]] = []
            for batch in range(options.samples // BATCH):
                next(stream)
                if batch % max(1, options.samples // BATCH // POINTS) == 0:
                    workers = [
                        memory_of(child.pid) for child in multiprocessing.active_children() if child.pid
                    ]
                    points.append((batch * BATCH, workers))
    print(f"first batch after {first:.2f} s; memory of each worker, MiB (private / resident):")
    for samples, workers in points:
        shown = "   ".join(f"{worker['private']:.0f} / {worker['resident']:.0f}" for worker in workers)
        print(f"  {samples:>8} samples   {shown}")
    result = {"what": "loader workers", "options": vars(options), "first_batch_seconds": first}
    result |= {"memory_mib": [{"samples": n, "workers": w} for n, w in points], "machine": describe_machine()}
    path = Path(__file__).parent / "results" / "workers.json"
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
