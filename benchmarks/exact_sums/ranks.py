"""One rank of benchmarks.exact_sums: it measures training steps with the plain sum and with exact sums, under torchrun.

    torchrun --nproc-per-node W -m benchmarks.exact_sums.ranks OUT.json OPTIONS

Both ways train the same model with the same optimizer. Rank 0 writes seconds and bytes. Times are taken between two
barriers, so they are those of the slowest rank.
"""

import dataclasses
import json
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarks.full_size import build, configured, new_step, synthetic_batches
from benchmarks.harness import in_turns, timed
from benchmarks.scaling.collectives import CountCollectives
from cxr_dist.config.run import Config
from cxr_dist.data.batch import Batch
from cxr_dist.distributed.backend import start, stop
from cxr_dist.distributed.reduce import wait_for_all
from cxr_dist.distributed.world import World
from cxr_dist.model.classifier import Classifier
from cxr_dist.train.assembly import new_optimizer

Step = Callable[[], object]


def configurations(options: Namespace) -> dict[str, Config]:
    """Both ways; the enhanced run's `gradient_checkpointing: auto` is refused with exact sums, and off here."""
    usual = configured(options.micro_batch, options.lanes)
    model = dataclasses.replace(usual.model, gradient_checkpointing="off")
    plain = dataclasses.replace(usual, model=model, precision=options.precision)
    return {"plain": plain, "exact": dataclasses.replace(plain, exact_sums=True)}


def steps(options: Namespace, world: World) -> dict[str, Step]:
    """A training step of each way, on the same model, optimizer and batches."""
    model = build(world.device).train()
    ways = configurations(options)
    optimizer = new_optimizer(ways["plain"])([{"params": list(model.parameters()), "fused": True}])
    batches = synthetic_batches(options.micro_batch, options.lanes // world.world_size, world.device)
    return {name: step_of(config, world, model, optimizer, batches) for name, config in ways.items()}


def step_of(
    config: Config, world: World, model: Classifier, optimizer: torch.optim.Optimizer, batches: list[Batch]
) -> Step:
    """One way's step. Its choice of kernels holds for the whole process, so that it is made again before each step."""
    step = new_step(config, model, world, lambda groups: optimizer)

    def once() -> None:
        torch.use_deterministic_algorithms(config.exact_sums)
        step(0, 0, batches, False)

    return once


def seconds(step: Step, device: torch.device) -> float:
    """Seconds of one step on the slowest rank."""
    wait_for_all()
    began = time.perf_counter()
    timed(step, device)
    wait_for_all()
    return time.perf_counter() - began


def measure(made: Callable[[Namespace, World], dict[str, Step]], out: str, given: str) -> None:
    """Measure the steps that `made` makes, in turns, and write seconds and bytes of rank 0."""
    options, world = Namespace(**json.loads(given)), World.from_environment()
    start(world, timeout_minutes=10)
    torch.set_num_threads(1)
    ways, sent = made(options, world), {}
    for name, step in ways.items():
        with CountCollectives() as count:  # in the step that also warms up
            step()
        sent[name] = sum(each.bytes_sent(world.world_size) for each in count.found)
    clocked = {name: partial(seconds, step, world.device) for name, step in ways.items()}
    spent = in_turns(clocked, options.turns, warm_up=0)
    if world.is_main:
        Path(out).write_text(json.dumps({"seconds": spent, "bytes_sent": sent}))
    stop()


if __name__ == "__main__":
    measure(steps, *sys.argv[1:])
