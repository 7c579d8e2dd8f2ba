"""Measure the loader's workers: seconds to the first batch, and each worker's memory over many samples.

    python -m benchmarks.workers [--samples 100000] [--workers 2]

The data are synthetic images of 64 pixels with reports. A worker is forked from the training process and shares its
pages until it writes to them. `private` is the memory that only the worker uses, and `resident` also counts shared
pages; both are read from /proc. Writes benchmarks/results/workers.json.
"""

import multiprocessing
import tempfile
import time
from pathlib import Path

from benchmarks.films import make_shards, prepared, stream
from benchmarks.harness import arguments, write_result

BATCH, SIDE, POINTS = 64, 64, 10


def memory_of(pid: int) -> dict[str, float]:
    """Private and resident memory of a process in MiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return {"private": (kib["Private_Clean"] + kib["Private_Dirty"]) / 1024, "resident": kib["Rss"] / 1024}


def main() -> None:
    """Measure, print and write the result."""
    options = arguments(__doc__, samples=100_000, workers=2)
    num_batches = options.samples // BATCH
    points: list[tuple[int, list[dict[str, float]]]] = []
    with (
        tempfile.TemporaryDirectory() as name,
        prepared(make_shards(Path(name), 960, SIDE), options.workers) as data,
    ):
        start = time.perf_counter()
        batches = stream(data.config(BATCH, SIDE), data.tokenizer)
        next(batches)
        first = time.perf_counter() - start
        for number in range(num_batches):
            next(batches)
            if number % max(1, num_batches // POINTS) == 0:
                workers = [memory_of(child.pid) for child in multiprocessing.active_children() if child.pid]
                points.append((number * BATCH, workers))
    print(f"first batch after {first:.2f} s; memory of each worker, MiB (private / resident):")
    for samples, workers in points:
        shown = "   ".join(f"{worker['private']:.0f} / {worker['resident']:.0f}" for worker in workers)
        print(f"  {samples:>8} samples   {shown}")
    memory = [{"samples": samples, "workers": workers} for samples, workers in points]
    write_result("workers", "loader workers", options, first_batch_seconds=first, memory_mib=memory)


if __name__ == "__main__":
    main()
