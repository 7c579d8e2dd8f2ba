"""Memory of a training step: predicted by `cxr-dist plan`'s own function, and measured in real steps.

    python -m benchmarks.memory [--micro-batches 4,8,16] [--limit-gib 4] [--only NAME]

The baseline and the enhanced model (random weights of the real sizes), with and without gradient checkpointing, and
each engine at two ranks, a fresh process for each case. On a GPU what torch's caching allocator had at most; on the CPU
the same of torch's CPU allocator, and how much the process grew (oneDNN's workspaces and malloc's pieces included).
Ranks above the number of GPUs are left out. Then the largest micro-batch under a limit (on a GPU: what it has free),
chosen by prediction and tried, for one rank and per engine. Results go into benchmarks/results/memory.json, from a GPU
into memory-cuda.json.
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

TARGET = 0.15  # of what was measured
DEVICE = this_device()
CUDA = DEVICE.type == "cuda"
Case = dict[str, Any]


def case(run: str, micro_batch: int, setting: str, **changes: Any) -> Case:
    """A case with the run's usual precision: bf16 for enhanced on a GPU, else fp32, which is the faster on a CPU."""
    precision = "bf16" if CUDA and run == "enhanced" else "fp32"
    usual = {"run": run, "micro_batch": micro_batch, "gradient_checkpointing": setting}
    return usual | {"precision": precision, "parallel": "ddp", "ranks": 1} | changes


def cases(micro_batches: list[int]) -> list[Case]:
    """What is measured, the small ones first."""
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
    """Bytes of a rank, by the function behind `cxr-dist plan`."""
    config = configured(wanted)
    found = footprint(config, CLASSES, folder, DEVICE.type)
    assert found is not None
    averaged = config.optim.ema_decay > 0
    return peak(found, config.parallel, ranks=wanted["ranks"], several=True, averaged=averaged)


def measured(wanted: Case, folder: Path) -> dict[str, int] | None:
    """Rank 0's figures from a fresh process; None where it ran out of memory."""
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
    """A row of the table: prediction first, then the measurement."""
    row = dict(wanted) | {"predicted": predicted(wanted, folder)}
    figures = measured(wanted, folder)
    if figures is None:
        return row | {"out_of_memory": True}
    error = row["predicted"] / figures["allocated"] - 1
    return row | {"allocated": figures["allocated"], "process": figures["process"], "error": error}


def largest(wanted: Case, limit: int, folder: Path, known: list[dict[str, Any]]) -> dict[str, Any]:
    """The micro-batch that a line through two predictions puts just below the limit, and what it then took.

    With everything recomputed memory is no line, and it may be one to four too large. `largest` is by a line through
    two measurements, this one and that of `known` with the same settings and another size; None where it ran out of
    memory.
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
    """One line of the table, MiB."""
    name = f"{row['run']} b={row['micro_batch']} {row['precision']} checkpointing={row['gradient_checkpointing']}"
    name += f" {row['parallel']}×{row['ranks']}"
    if "allocated" not in row:
        print(f"{name:<58}{row['predicted'] / 2**20:9.0f}   out of memory", flush=True)
        return
    figures = [row[key] / 2**20 for key in ("predicted", "allocated", "process")]
    shown = "".join(f"{figure:9.0f}" for figure in figures)
    found = f"  largest {row['largest']}" if "largest" in row else ""
    print(f"{name:<58}{shown}{row['error']:+8.1%}{found}", flush=True)


def main() -> None:
    """Predict, measure, compare, and write the result."""
    options = arguments(
        __doc__,
        micro_batches="4,8,16",
        limit_gib=(4.0, "on the CPU"),
        only=("", "cases whose engine is this one; writes no result"),
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
