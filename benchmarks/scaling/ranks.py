"""One rank of benchmarks.scaling: it measures training steps with and without the sum over ranks, under torchrun.

    torchrun --nproc-per-node W -m benchmarks.scaling.ranks OUT.json OPTIONS

Rank 0 writes seconds and bytes. Times are taken between two barriers, so they are those of the slowest rank.
"""

import dataclasses
import gc
import json
import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.full_size import build, configured, new_step, synthetic_batches
from benchmarks.scaling.collectives import CountCollectives
from benchmarks.scaling.model import ENGINES
from cxr_dist.config.ddp import DdpConfig
from cxr_dist.config.named import named_run
from cxr_dist.distributed.backend import new_backend, start, stop
from cxr_dist.distributed.engine import Backend
from cxr_dist.distributed.reduce import sum_over_ranks, wait_for_all
from cxr_dist.distributed.world import World

Step = Callable[[], object]
MESSAGES = {2**12: 20, 2**18: 20, 2**22: 10, 2**26: 3}  # bytes of an all-reduce: number of repeats
SETTINGS = {
    "fp32": DdpConfig(),
    "bf16 hook": DdpConfig(comm_hook="bf16"),
    "fp32, buckets of 200 MiB": DdpConfig(bucket_cap_mb=200),
}


class Bench:
    """The model, the device and all measurements of one rank."""

    def __init__(self, options: Namespace) -> None:
        self.options, self.world = options, World.from_environment()
        start(self.world, timeout_minutes=5)
        self.device = self.world.device
        torch.set_num_threads(1)
        self.model = build(self.device).train()

    def steps(self, lanes: int, ddp: DdpConfig) -> tuple[Backend, Step]:
        """The package's engine, and its step over `lanes` lanes on each rank."""
        size = self.options.micro_batch
        config = dataclasses.replace(
            configured(size, lanes * self.world.world_size), ddp=ddp, precision=self.options.precision
        )
        step = new_step(config, self.model, self.world)
        batches = synthetic_batches(size, lanes, self.device)
        return step.backend, lambda: step(0, 0, batches, False)

    def seconds(self, step: Step) -> float:
        """Seconds of one step on the slowest rank."""
        self._finish()
        began = time.perf_counter()
        step()
        self._finish()
        return time.perf_counter() - began

    def _finish(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        wait_for_all()

    def weak(self, ddp: DdpConfig) -> dict[str, Any]:
        """Measure one lane per rank, in turns with and without the sum of gradients over ranks."""
        backend, step = self.steps(1, ddp)
        step()
        with CountCollectives() as count:
            step()
        found: dict[str, Any] = {"with": [], "without": []}
        for _ in range(self.options.turns):
            found["with"].append(self.seconds(step))
            if self.world.world_size > 1:
                with unsummed(backend):
                    found["without"].append(self.seconds(step))
        sizes = [each.num_bytes for each in count.found]
        found["collectives"], found["bytes"] = len(sizes), sum(sizes)
        found["bytes_sent"] = sum(each.bytes_sent(self.world.world_size) for each in count.found)
        # Leaves out the loss's denominator (24 bytes). The last one has BatchNorm's statistics, after the update.
        found["buckets"] = [size for size in sizes if size > 2**10]
        found["all_reduce_alone"] = self.alone(found["buckets"])
        return found

    def strong(self) -> list[float]:
        """Measure steps with the same total number of lanes at every number of ranks."""
        _, step = self.steps(self.options.lanes // self.world.world_size, DdpConfig())
        step()
        return [self.seconds(step) for _ in range(self.options.turns)]

    def alone(self, sizes: list[int]) -> float:
        """Seconds for consecutive all-reduces of these sizes in bytes, without computation."""
        tensors = [torch.zeros(size // 4, device=self.device) for size in sizes]
        times = [self.seconds(lambda: [sum_over_ranks(tensor) for tensor in tensors]) for _ in range(4)]
        return statistics.median(times[1:])

    def parts(self) -> dict[str, float]:
        """Seconds of forward pass, backward pass and update of a step of one lane, timed separately."""
        backend, step = self.steps(1, DdpConfig())
        spent: dict[str, list[float]] = {name: [] for name in ("forward", "backward", "update")}
        for name in spent:
            setattr(backend, name, self._timed(getattr(backend, name), spent[name]))
        for _ in range(2 + self.options.turns):
            step()
        return {name: statistics.median(values[2:]) for name, values in spent.items()}

    def _timed(self, call: Callable[..., Any], into: list[float]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            self._finish()
            began = time.perf_counter()
            result = call(*arguments)
            self._finish()
            into.append(time.perf_counter() - began)
            return result

        return timed

    def engines(self) -> dict[str, dict[str, float]]:
        """Bytes that a rank sends in a step of a small network, counted by engine and number of lanes."""
        return {name: {str(lanes): self._sent(name, lanes) for lanes in (1, 2)} for name in ENGINES}

    def _sent(self, engine: str, lanes: int) -> float:
        parallel, _, hook = engine.partition(", ")
        ddp = DdpConfig(comm_hook="bf16" if hook else "none")
        config = dataclasses.replace(named_run("demo"), parallel=parallel, ddp=ddp)
        torch.manual_seed(1)
        network = small_network().to(self.device)
        backend = new_backend(config, self.world, network, torch.optim.AdamW)
        backend.prepare()
        for _ in range(3):  # in the first steps the engine arranges its buckets
            with CountCollectives() as count:
                for lane in range(lanes):
                    with backend.accumulate(is_last=lane == lanes - 1):
                        inputs = torch.ones(4, SMALL_WIDTH, device=self.device)
                        backend.backward(backend.forward(inputs).square().mean())
                backend.update()
        return sum(each.bytes_sent(self.world.world_size) for each in count.found)


SMALL_WIDTH, SMALL_DEPTH = 512, 5


def small_network() -> nn.Module:
    """A network whose weights are all large enough for ZeRO 3 to partition them."""
    layers = [nn.Linear(SMALL_WIDTH, SMALL_WIDTH, bias=False) for _ in range(SMALL_DEPTH)]
    return nn.Sequential(*(each for layer in layers for each in (layer, nn.Tanh())))


def layout(model: nn.Module) -> list[int]:
    """The sizes of DDP's buckets in bytes, computed without other ranks, from the last gradient to the first."""
    sizes, buckets = [4 * parameter.numel() for parameter in model.parameters()], [0]
    for size in reversed(sizes):
        if buckets[-1] >= (2**20 if len(buckets) == 1 else 25 * 2**20):
            buckets.append(0)
        buckets[-1] += size
    return buckets


@contextmanager
def unsummed(backend: Backend) -> Iterator[None]:
    """Do not sum gradients over ranks, as in every lane but the last of a step."""
    accumulate = backend.accumulate
    backend.accumulate = lambda *, is_last: accumulate(is_last=False)  # type: ignore[method-assign]
    yield
    backend.accumulate = accumulate  # type: ignore[method-assign]


def measure(options: Namespace) -> tuple[World, dict[str, Any]]:
    """All measurements at this world size."""
    bench = Bench(options)
    ranks = bench.world.world_size
    found: dict[str, Any] = {"parts": bench.parts()} if ranks == 1 else {}
    found["num_parameters"] = sum(parameter.numel() for parameter in bench.model.parameters())
    found["buckets_by_layout"] = layout(bench.model)
    names = list(SETTINGS)[: len(SETTINGS) if ranks == 2 else 1]
    found["weak"] = {}
    for name in names:
        found["weak"][name] = bench.weak(SETTINGS[name])
        gc.collect()  # frees the engine with its moments and its hooks on the model
    found["strong"] = bench.strong() if options.lanes > ranks else found["weak"]["fp32"]["with"]
    if ranks > 1:
        points = {size: bench.alone([size] * count) / count for size, count in MESSAGES.items()}
        found["all_reduce_by_bytes"] = points
    if ranks == 2:
        found["engines"] = bench.engines()
    return bench.world, found


def main(out: str, options: str) -> None:
    """Measure, and write the result of rank 0."""
    world, found = measure(Namespace(**json.loads(options)))
    if world.is_main:
        Path(out).write_text(json.dumps(found))
    stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
