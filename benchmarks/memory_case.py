"""One case of benchmarks/memory.py, in a process of its own: real training steps, and the memory that they took.

    python -m benchmarks.memory_case CASE.json      with several ranks under torchrun; rank 0 prints a line of JSON

The first step has a film or two and makes the optimizer's moments. In the second a small micro-batch leaves
gradients behind, and the one of the case's size meets them, as in any step of a run.
"""

import dataclasses
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.mc_dropout import BERT_BASE
from cxr_dist.config.named import named_run
from cxr_dist.config.run import Config
from cxr_dist.distributed.backend import new_backend, start, stop
from cxr_dist.distributed.world import World, lanes_of
from cxr_dist.model.classifier import build_classifier
from cxr_dist.model.losses import ClassificationLoss
from cxr_dist.train.assembly import new_optimizer
from cxr_dist.train.memory.micro_batch import largest_batch
from cxr_dist.train.step import TrainStep

CLASSES = 5
SMALL = 2  # samples; BatchNorm needs more than one value
LANES = 2  # of a rank


def configured(case: dict[str, Any]) -> Config:
    """The run of a case: run, micro_batch, gradient_checkpointing, precision, parallel, ranks."""
    config = named_run(case["run"])
    micro_batch, ranks = int(case["micro_batch"]), int(case["ranks"])
    return dataclasses.replace(
        config,
        data=dataclasses.replace(
            config.data, global_batch=micro_batch * LANES * ranks, micro_batch=micro_batch
        ),
        model=dataclasses.replace(
            config.model, pretrained=False, gradient_checkpointing=case["gradient_checkpointing"]
        ),
        precision=case["precision"],
        parallel=case["parallel"],
    )


def new_step(config: Config, world: World, device: torch.device) -> TrainStep:
    """The run's step, over random weights of the real sizes."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(BERT_BASE))
        model: nn.Module = build_classifier(config.model, CLASSES, Path(folder)).train().to(device)
    backend = new_backend(config, world, device, model, new_optimizer(config))
    backend.prepare()
    loss = ClassificationLoss(
        name=config.loss.name, gamma=config.loss.gamma, class_weights=None, task="multiclass"
    )
    return TrainStep(config, backend, loss, CLASSES, lanes_of(world, config.data.num_lanes))


def two_steps(config: Config, world: World, device: torch.device) -> None:
    """Two small micro-batches; then a small one, and one of the run's size."""
    step, epoch = new_step(config, world, device), config.train.epochs - 1
    small, whole = (
        largest_batch(config, size, 1) for size in (SMALL, config.data.global_batch // config.data.num_lanes)
    )
    step(0, epoch, [small] * LANES, False)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    step(1, epoch, [small] * (LANES - 1) + [whole], False)


def host_peak() -> int:
    """The most physical memory that this process has had, bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def measured_on_cpu(config: Config, world: World) -> dict[str, int]:
    """Peak of torch's allocator, which the profiler reports event by event, and what the process grew by."""
    before, device = host_peak(), torch.device("cpu")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        two_steps(config, world, device)
        process = host_peak() - before
    assert profiled.profiler is not None
    assert profiled.profiler.kineto_results is not None
    peak, waiting = 0, list(profiled.profiler.kineto_results.experimental_event_tree())
    while waiting:
        event = waiting.pop()
        waiting += event.children
        peak = max(peak, getattr(event.extra_fields, "total_allocated", 0))
    return {"allocated": peak, "process": process}


def measured_on_gpu(config: Config, world: World, device: torch.device) -> dict[str, int]:
    """Peak of the caching allocator, and of what it held of the device."""
    two_steps(config, world, device)
    torch.cuda.synchronize()
    return {"allocated": torch.cuda.max_memory_allocated(), "process": torch.cuda.max_memory_reserved()}


def main() -> None:
    """Measure the case of the file named on the command line."""
    config, world = configured(json.loads(Path(sys.argv[1]).read_text())), World.from_environment()
    device = start(world, timeout_minutes=10)
    found = (
        measured_on_gpu(config, world, device) if device.type == "cuda" else measured_on_cpu(config, world)
    )
    if world.is_main:
        print(json.dumps(found))
    stop()


if __name__ == "__main__":
    main()
