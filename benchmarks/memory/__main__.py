"""Compare the memory of a training step that `cxr-dist plan` predicts with the memory measured in real steps.

    python -m benchmarks.memory [--micro-batches 4,8,16] [--limit-gib 4] [--only NAME]

The cases are the baseline and the enhanced model at full size with random weights, with and without gradient
checkpointing, and each engine at two ranks; each case runs in a new process. The measured value is the peak of torch's
allocator. On the CPU the growth of the process, which includes oneDNN's workspaces and malloc's overhead, is measured
too. Cases with more ranks than GPUs are left out. Then the micro-batch that is predicted to be the largest below a
limit, on a GPU its free memory, is tried for one rank and for every engine. Writes benchmarks/results/memory.json,
on a GPU memory-cuda.json.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.full_size import CLASSES, bert_folder
from benchmarks.harness import arguments, this_device, torchrun, write_result
from benchmarks.memory.case import configured
from cxr_dist.train.memory.footprint import footprint
from cxr_dist.train.memory.needs import peak

TARGET = 0.15  # largest error, as a share of the measured memory
DEVICE = this_device()
CUDA = DEVICE.type == "cuda"
Case = dict[str, Any]


def case(run: str, micro_batch: int, setting: str, **changes: Any) -> Case:
    """A case with the run's usual precision: bf16 for enhanced on a GPU, else fp32, which is faster on a CPU."""
    precision = "bf16" if CUDA and run == "enhanced" else "fp32"
    usual = {"run": run, "micro_batch": micro_batch, "gradient_checkpointing": setting}
    return usual | {"precision": precision, "parallel": "ddp", "ranks": 1} | changes


def cases(micro_batches: list[int]) -> list[Case]:
    """The cases to measure, small ones first."""
    found = [case("enhanced", size, setting) for size in micro_batches for setting in ("off", "all")]
    found += [case("enhanced", micro_batches[0], setting) for setting in ("text", "image")]
    found += [case("baseline", micro_batches[0], setting) for setting in ("off", "image")]
    other = "fp32" if CUDA else "bf16"
    found += [case("enhanced", micro_batches[0], "off", precision=other)]
    return found + [case("enhanced", micro_batches[0], setting, **engine) for engine, setting in engines()]


def engines() -> list[tuple[Case, str]]:
    """Each engine at two ranks, without and with gradient checkpointing; none on one GPU, where ZeRO is refused."""
    if CUDA and torch.cuda.device_count() == 1:
        return []
    names = ("ddp", "zero1", "zero2", "zero3")
    return [({"parallel": name, "ranks": 2}, setting) for name in names for setting in ("off", "all")]


def predicted(wanted: Case, folder: Path) -> int:
    """Bytes of one rank, predicted by the function that `cxr-dist plan` uses."""
    config = configured(wanted)
    needs = footprint(config, CLASSES, folder, DEVICE.type)
    assert needs is not None
    averaged = config.optim.ema_decay > 0
    exact_lanes = config.data.num_lanes // wanted["ranks"] if config.exact_sums else 0
    return peak(needs, config.parallel, ranks=wanted["ranks"], several=True, averaged=averaged, exact_lanes=exact_lanes)


def measured(wanted: Case, folder: Path) -> dict[str, int] | None:
    """Rank 0's figures from a new process; None if it ran out of memory."""
    path = folder / "case.json"
    path.write_text(json.dumps(wanted))
    environment = os.environ | {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "131072"}
    environment |= {} if CUDA else {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": str(2 // wanted["ranks"])}
    start = torchrun(wanted["ranks"]) if wanted["ranks"] > 1 else [sys.executable]
    command = [*start, "-m", "benchmarks.memory.case", str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"allocated"')]
    if not lines and "out of memory" in done.stderr.lower():
        return None
    assert lines, done.stderr[-2000:]
    figures: dict[str, int] = json.loads(lines[0])
    return figures


def compared(wanted: Case, folder: Path) -> dict[str, Any]:
    """A row of the table with the prediction, the measurement and the error."""
    row = dict(wanted) | {"predicted": predicted(wanted, folder)}
    figures = measured(wanted, folder)
    if figures is None:
        return row | {"out_of_memory": True}
    error = row["predicted"] / figures["allocated"] - 1
    return row | {"allocated": figures["allocated"], "process": figures["process"], "error": error}


def largest(wanted: Case, limit: int, folder: Path, known: list[dict[str, Any]]) -> dict[str, Any]:
    """The largest micro-batch below the limit by linear extrapolation of two predictions, with its measured memory.

    With full gradient checkpointing memory is not linear, so this micro-batch may be up to four samples too large.
    `largest` is extrapolated from two measurements, this one and the one in `known` with the same settings and another
    size; it is None if this one ran out of memory.
    """
    small, large = (predicted(wanted | {"micro_batch": size}, folder) for size in (4, 8))
    per_sample = (large - small) / 4
    size = int((limit - small) / per_sample) + 4
    row = {"limit": limit, "largest": None} | compared(wanted | {"micro_batch": size}, folder)
    if "allocated" in row:
        other = next(each for each in known if wanted.items() <= (each | {"micro_batch": 0}).items())
        per_sample = (row["allocated"] - other["allocated"]) / (size - other["micro_batch"])
        row["largest"] = size + int((limit - row["allocated"]) // per_sample)
    return row


def show(row: dict[str, Any]) -> None:
    """Print a row of the table in MiB."""
    name = f"{row['run']} b={row['micro_batch']} {row['precision']} checkpointing={row['gradient_checkpointing']}"
    name += f" {row['parallel']}×{row['ranks']}"
    if "allocated" not in row:
        print(f"{name:<58}{row['predicted'] / 2**20:9.0f}   out of memory", flush=True)
        return
    figures = [row[key] / 2**20 for key in ("predicted", "allocated", "process")]
    shown = "".join(f"{figure:9.0f}" for figure in figures)
    suffix = f"  largest {row['largest']}" if "largest" in row else ""
    print(f"{name:<58}{shown}{row['error']:+8.1%}{suffix}", flush=True)


def main() -> None:
    """Predict, measure, print and write the result."""
    options = arguments(
        __doc__,
        micro_batches="4,8,16",
        limit_gib=(4.0, "memory limit on the CPU"),
        only=("", "measure only the cases of this engine, and write no result"),
    )
    limit = int(0.9 * torch.cuda.mem_get_info()[0]) if CUDA else int(options.limit_gib * 2**30)
    wanted = cases([int(size) for size in options.micro_batches.split(",")])
    print(f"{'MiB':<58}predicted allocated  process   error")
    with bert_folder() as folder:
        rows = []
        for each in (case for case in wanted if options.only in ("", case["parallel"])):
            rows.append(compared(each, folder))
            show(rows[-1])
        if options.only:
            return
        print(f"largest micro-batch below {limit / 2**20:.0f} MiB a rank: by prediction, and as measured")
        greatest = []
        for engine, setting in [({}, "off"), ({}, "all"), *engines()]:
            greatest.append(largest(case("enhanced", 0, setting, **engine), limit, folder, rows))
            show(greatest[-1])
    worst = max(abs(row["error"]) for row in rows + greatest if "error" in row)
    print(f"largest error {worst:.1%} (target: at most {TARGET:.0%})")
    found = {"rows": rows, "largest_micro_batch": greatest, "largest_error": worst, "target": TARGET}
    write_result("memory", "peak memory of a step of a rank, bytes", device=DEVICE, **found)


if __name__ == "__main__":
    main()
