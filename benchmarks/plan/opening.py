"""Opens the plan of a folder in a process of its own, and prints what that took as a line of JSON.

    python -m benchmarks.plan.opening FOLDER LANES

Nothing else is imported, because the process's peak memory is reported.
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
    """Seconds until the first window of a lane is resolved, from the files on, and the process's peak memory in MiB."""
    start = time.perf_counter()
    manifest = load_manifest(folder)
    read = time.perf_counter()
    plan = plan_of(column(manifest.split("train").shards, "group_counts"), num_lanes)
    plan.locate(0, plan.window_draws(0, 0, 0))
    stop = time.perf_counter()
    return {"manifest_seconds": read - start, "plan_seconds": stop - read, "peak_mib": peak_bytes() / 2**20}


if __name__ == "__main__":
    print(json.dumps(open_once(Path(sys.argv[1]), int(sys.argv[2]))))
