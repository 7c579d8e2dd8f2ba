"""Measure the memory of real training steps for one case of benchmarks.memory, in a separate process.

    python -m benchmarks.memory.case CASE.json      under torchrun for several ranks; rank 0 prints a line of JSON

The first step has only small micro-batches and creates the optimizer's moments. In the second step, small
micro-batches leave gradients in memory before the micro-batch of the case's size follows, as in every step of a run.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.full_size import build, new_step
from benchmarks.harness import peak_bytes
from cxr_dist.config.named import named_run
from cxr_dist.config.run import Config
from cxr_dist.distributed.backend import start, stop
from cxr_dist.distributed.world import World
from cxr_dist.train.memory.micro_batch import largest_batch

SMALL = 2  # samples; BatchNorm needs more than one value
LANES = 2  # per rank, if the case names no other number


def configured(case: dict[str, Any]) -> Config:
    """The configuration of a case."""
    config, size = named_run(case["run"]), int(case["micro_batch"])
    lanes = int(case.get("lanes", LANES)) * int(case["ranks"])
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, global_batch=size * lanes, micro_batch=size),
        model=dataclasses.replace(
            config.model, pretrained=False, gradient_checkpointing=case["gradient_checkpointing"]
        ),
        precision=case["precision"],
        parallel=case["parallel"],
        exact_sums=case.get("exact_sums", False),
    )


def two_steps(config: Config, world: World, device: torch.device) -> None:
    """Run a step of small micro-batches, then a step that ends with a micro-batch of the run's size."""
    lanes = config.data.num_lanes // world.world_size
    step = new_step(config, build(device, config.model).train(), world)
    epoch = config.train.epochs - 1
    small, whole = (
        largest_batch(config, size, 1) for size in (SMALL, config.data.global_batch // config.data.num_lanes)
    )
    step(0, epoch, [small] * lanes, False)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    step(1, epoch, [small] * (lanes - 1) + [whole], False)


def measured_on_cpu(config: Config, world: World) -> dict[str, int]:
    """The peak of torch's allocator, which the profiler records, and the growth of the process."""
    before, device = peak_bytes(), torch.device("cpu")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        two_steps(config, world, device)
        process = peak_bytes() - before
    assert profiled.profiler is not None
    assert profiled.profiler.kineto_results is not None
    peak, waiting = 0, list(profiled.profiler.kineto_results.experimental_event_tree())
    while waiting:
        event = waiting.pop()
        waiting += event.children
        peak = max(peak, getattr(event.extra_fields, "total_allocated", 0))
    return {"allocated": peak, "process": process}


def measured_on_gpu(config: Config, world: World, device: torch.device) -> dict[str, int]:
    """The peaks of the memory that torch's allocator gave to tensors and that it reserved."""
    two_steps(config, world, device)
    torch.cuda.synchronize()
    return {"allocated": torch.cuda.max_memory_allocated(), "process": torch.cuda.max_memory_reserved()}


def main() -> None:
    """Measure the case in the file that the command line names."""
    config, world = configured(json.loads(Path(sys.argv[1]).read_text())), World.from_environment()
    start(world, timeout_minutes=10)
    device = world.device
    found = measured_on_gpu(config, world, device) if device.type == "cuda" else measured_on_cpu(config, world)
    if world.is_main:
        print(json.dumps(found))
    stop()


if __name__ == "__main__":
    main()
