"""Where a training step's time goes: data, copy, image, text, fusion, backward, optimizer.

The package's own step runs as it is, on batches of its own loader, with a stopwatch around its parts: events on CUDA,
which nobody waits for, the clock on a CPU. Operations are those that the model needs (cxr_dist/train/flops.py).
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.ceilings import Ceilings
from benchmarks.loader import make_shards, prepared
from cxr_dist.config.run import Config
from cxr_dist.data.batch import Batch
from cxr_dist.data.loader import training_batches, training_plan
from cxr_dist.distributed.backend import new_backend
from cxr_dist.distributed.world import World
from cxr_dist.format.manifest import load_manifest
from cxr_dist.model.classifier import Classifier
from cxr_dist.model.losses import ClassificationLoss
from cxr_dist.train.assembly import new_optimizer
from cxr_dist.train.flops import BACKWARD, count_flops
from cxr_dist.train.step import TrainStep

CLASSES = 5
Table = dict[str, dict[str, float]]
"""Phase -> seconds, share of the step and, where it has products, operations, and their rate over the ceiling's."""
_SIDE, _SECTIONS = 256, ("indication", "findings")


def new_step(config: Config, model: Classifier, device: torch.device) -> TrainStep:
    """The package's step for a model, in a world of one, with plain cross-entropy."""
    backend = new_backend(config, World(), device, model, new_optimizer(config))
    backend.prepare()
    loss = ClassificationLoss(
        name="cross_entropy", gamma=config.loss.gamma, class_weights=None, task="multiclass"
    )
    return TrainStep(config, backend, loss, CLASSES, range(config.data.num_lanes))


class Loaded(NamedTuple):
    """What the loader gave."""

    seconds: float
    """Of one process's work on a step."""
    batches: list[Batch]
    """A step's micro-batches, in page-locked memory where there is a GPU."""


def measure_phases(
    config: Config, model: Classifier, device: torch.device, loaded: Loaded, turns: int, ceilings: Ceilings
) -> Table:
    """Medians over `turns` steps, after two that warm up. `data` is the loader's work, which takes place beside."""
    step = new_step(config, model, device)
    watch = _Stopwatch(device)
    _watch_parts(watch, step, model)
    laps = []
    for number in range(turns + 2):
        with watch.span("step"):
            step(number, 0, loaded.batches, False)
        laps.append(watch.read())
    seconds = {name: statistics.median(lap[name] for lap in laps[2:]) for name in laps[0]}
    operations = _operations(model, config, loaded.batches)
    return _table({"data": loaded.seconds} | seconds, operations, ceilings)


class _Stopwatch:
    """Seconds by name of spans of one device's work."""

    def __init__(self, device: torch.device) -> None:
        self.on_cuda = device.type == "cuda"
        self._spans: list[tuple[str, Any, Any]] = []

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """A block whose seconds are added up by name."""
        start = self._now()
        yield
        self._spans.append((name, start, self._now()))

    def watch(self, owner: Any, method: str, name: str) -> None:
        """Time every call of an object's method from here on."""
        call = getattr(owner, method)

        def timed(*arguments: Any, **options: Any) -> Any:
            with self.span(name):
                return call(*arguments, **options)

        setattr(owner, method, timed)

    def read(self) -> dict[str, float]:
        """Seconds since the last reading; waits for the device."""
        if self.on_cuda:
            torch.cuda.synchronize()
        found: dict[str, float] = {}
        for name, start, end in self._spans:
            seconds = start.elapsed_time(end) / 1000 if self.on_cuda else end - start
            found[name] = found.get(name, 0.0) + seconds
        self._spans = []
        return found

    def _now(self) -> Any:
        if not self.on_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


def _watch_parts(watch: _Stopwatch, step: TrainStep, model: Classifier) -> None:
    watch.watch(step, "inputs", "copy")  # to the device, to floats, jitter
    for encoder, name in ((model.image, "image"), (model.text, "text")):
        if encoder is not None:
            watch.watch(encoder, "forward", name)
    watch.watch(model, "classify", "fusion")
    watch.watch(step.backend, "backward", "backward")
    watch.watch(step.backend, "update", "optimizer")


def load_steps(config: Config, turns: int) -> Loaded:
    """Let the loader make so many steps, and one to warm up, of made studies: the median time, the last step."""
    lanes, seconds, batches = range(config.data.num_lanes), [], []
    with tempfile.TemporaryDirectory() as folder:
        shards = make_shards(Path(folder), 2 * max(100, config.data.global_batch), _SIDE)
        data, manifest = replace(config.data, shards=str(shards), workers=0), load_manifest(shards)
        plan = training_plan(data, manifest, config.seed)
        with prepared(shards, _SECTIONS, 0) as made:
            stream = training_batches(
                data, manifest, plan, lanes=lanes, first_step=0, tokenizer=made.tokenizer, with_images=True
            )
            for _ in range(turns + 1):
                start = time.perf_counter()
                batches = [next(stream) for _ in lanes]
                seconds.append(time.perf_counter() - start)
    pinned = [batch.pin_memory() if torch.cuda.is_available() else batch for batch in batches]
    return Loaded(statistics.median(seconds[1:]), pinned)


def _operations(model: Classifier, config: Config, batches: list[Batch]) -> dict[str, float]:
    """By phase, of a whole step."""
    flops = count_flops(model, config.data.image_size)
    assert flops is not None
    forward = [flops.forward(batch) for batch in batches]
    found = {name: sum(each[name] for each in forward) for name in forward[0]}
    found["backward"] = BACKWARD * sum(found.values())
    return found | {"step": sum(found.values())}


def _table(seconds: dict[str, float], operations: dict[str, float], ceilings: Ceilings) -> Table:
    order = ("data", "copy", "image", "text", "fusion", "backward", "optimizer", "other", "step")
    inside = sum(value for name, value in seconds.items() if name not in ("data", "step"))
    seconds["other"] = seconds["step"] - inside
    table: Table = {}
    for name in (name for name in order if name in seconds):
        table[name] = {"seconds": seconds[name], "share": seconds[name] / seconds["step"]}
        if operations.get(name):
            rate = operations[name] / seconds[name]
            table[name] |= {
                "operations": operations[name],
                "of_ceiling": rate / ceilings.operations_per_second,
            }
    return table


def show_phases(title: str, table: Table) -> None:
    """Print the table."""
    print(f"{title}: phases of a step. Data is one loader's work, beside the step")
    print(f"  {'phase':<10}{'ms':>10}{'of step':>9}{'GFLOP':>10}{'of ceiling':>12}")
    for name, row in table.items():
        line = f"  {name:<10}{row['seconds'] * 1e3:>10.2f}{row['share']:>9.1%}"
        if "operations" in row:
            line += f"{row['operations'] / 1e9:>10.1f}{row['of_ceiling']:>12.1%}"
        print(line)
