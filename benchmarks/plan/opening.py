"""Open the plan of a folder in a separate process, and print time and peak memory as a line of JSON.

    python -m benchmarks.plan.opening FOLDER LANES

It imports nothing else, because the peak memory of the whole process is reported.
"""

import json
import sys
import time
from pathlib import Path

from benchmarks.harness import peak_bytes
from benchmarks.plan.folder import plan_of
from cxr_dist.format.manifest import load_manifest
from cxr_dist.format.shard_list import column


def open_once(folder: Path, num_lanes: int) -> dict[str, float]:
    """Seconds for reading the manifest and for the first window of a lane, and the process's peak memory in MiB."""
    start = time.perf_counter()
    manifest = load_manifest(folder)
    read = time.perf_counter()
    plan = plan_of(column(manifest.split("train").shards, "group_counts"), num_lanes)
    plan.locate(0, plan.window_draws(0, 0, 0))
    stop = time.perf_counter()
    return {"manifest_seconds": read - start, "plan_seconds": stop - read, "peak_mib": peak_bytes() / 2**20}


if __name__ == "__main__":
    print(json.dumps(open_once(Path(sys.argv[1]), int(sys.argv[2]))))
