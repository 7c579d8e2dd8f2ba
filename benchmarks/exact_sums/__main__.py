"""Measure what exact sums cost beside the plain sum: seconds per step, bytes that a rank sends, and memory.

    python -m benchmarks.exact_sums [--micro-batch 1] [--lanes 4] [--turns 5] [--ranks 2 4] [--parts time memory]

The enhanced model (DenseNet-121 at 224 pixels, BERT-base, random weights) is trained with the package's step under
torchrun, with gloo and one thread each on the CPU, or with NCCL and one GPU each. Both ways compute the same lanes in
the same processes and take turns (plain, exact, exact, plain); the ratio is the median over pairs of neighbours, which
a busy machine slows alike. The peak memory of a rank with exact sums is measured as by benchmarks.memory, beside what
`cxr-dist plan` predicts. A part that is not measured keeps its earlier results. Writes
benchmarks/results/exact_sums.json.
"""

import argparse
import json
import statistics
from collections.abc import Iterator
from typing import Any

from benchmarks import page
from benchmarks.full_size import bert_folder
from benchmarks.harness import arguments, found_by_ranks, result_path, this_device, write_result
from benchmarks.memory.__main__ import case, compared, show

Found = dict[str, Any]
WHAT = "exact sums beside the plain sum"
PARTS = {"measured": "time", "memory": "memory"}  # key of the result: part
MEMORY = (  # ranks and lanes per rank
    {"ranks": 1, "lanes": 2},
    {"ranks": 1, "lanes": 4},
    {"ranks": 2, "lanes": 2},
)


def measured(ranks: int, options: argparse.Namespace) -> Found:
    """Seconds, bytes, and the ratio of both at this number of ranks."""
    found: Found = found_by_ranks(ranks, "benchmarks.exact_sums.ranks", options)
    seconds, sent = found["seconds"], found["bytes_sent"]
    ratios = [exact / plain for exact, plain in zip(seconds["exact"], seconds["plain"], strict=True)]
    found["ratio_of_seconds"] = {"median": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}
    found["ratio_of_bytes"] = sent["exact"] / sent["plain"]
    return found


def memory(micro_batch: int) -> Iterator[Found]:
    """Predicted and measured bytes of a rank with exact sums; benchmarks.memory has those of the plain sum."""
    with bert_folder() as folder:
        for size in MEMORY:
            row = compared(case("enhanced", micro_batch, "off", exact_sums=True, **size), folder)
            show(row)
            yield row


def main() -> None:
    """Measure, print the tables and write the result."""
    options = arguments(
        __doc__,
        micro_batch=1,
        lanes=(4, "of a step, over all ranks"),
        turns=5,
        ranks=[2, 4],
        precision="fp32",
        parts=["time", "memory"],
        memory_micro_batch=4,
    )
    device = this_device()
    path = result_path("exact_sums", device.type)
    earlier = json.loads(path.read_text()) if path.is_file() else {}
    found: Found = {key: {} if part in options.parts else earlier.get(key, {}) for key, part in PARTS.items()}
    for ranks in options.ranks if "time" in options.parts else []:
        found["measured"][str(ranks)] = measured(ranks, options)
        write_result("exact_sums", WHAT, options, device, **found)
    for row in memory(options.memory_micro_batch) if "memory" in options.parts else ():
        found["memory"][f"{row['ranks']} × {row['lanes']}"] = row
        write_result("exact_sums", WHAT, options, device, **found)
    page.show("exact_sums", device.type)


if __name__ == "__main__":
    main()
