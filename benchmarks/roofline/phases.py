"""Measure the phases of a training step: data, copy, image, text, fusion, backward, optimizer.

The package's training step runs unchanged on batches of its loader, and its parts are timed, with events on CUDA, which
cause no waiting, and with the clock on a CPU. The operations are those that the model needs (cxr_dist/train/flops.py).
"""

import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.films import make_shards, prepared, stream
from benchmarks.full_size import new_step
from benchmarks.harness import timed
from benchmarks.roofline.ceilings import Ceilings, now, seconds_between
from cxr_dist.config.run import Config
from cxr_dist.data.batch import Batch
from cxr_dist.model.classifier import Classifier
from cxr_dist.train.flops import BACKWARD, count_flops
from cxr_dist.train.step import TrainStep

Table = dict[str, dict[str, float]]
"""For each phase seconds, share of the step and, if it has any, operations and their share of the ceiling."""
_SIDE = 256


class Loaded(NamedTuple):
    """The batches of a step from the loader."""

    seconds: float
    """The time that one process needs for a step's batches."""
    batches: list[Batch]
    """A step's micro-batches, in page-locked memory if there is a GPU."""


def measure_phases(
    config: Config, model: Classifier, device: torch.device, loaded: Loaded, turns: int, ceilings: Ceilings
) -> Table:
    """Medians over `turns` steps after two that warm up. `data` is the loader's work, parallel to the step."""
    step = new_step(config, model)
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
    """Adds up the time of named spans of a device's work."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._spans: list[tuple[str, Any, Any]] = []

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Time a block under a name."""
        start = now(self.device)
        yield
        self._spans.append((name, start, now(self.device)))

    def watch(self, owner: Any, method: str, name: str) -> None:
        """Time every later call of an object's method under a name."""
        call = getattr(owner, method)

        def timed(*arguments: Any, **options: Any) -> Any:
            with self.span(name):
                return call(*arguments, **options)

        setattr(owner, method, timed)

    def read(self) -> dict[str, float]:
        """Seconds of each name since the last reading; waits for the device."""
        seconds: dict[str, float] = {}
        for name, start, end in self._spans:
            seconds[name] = seconds.get(name, 0.0) + seconds_between(start, end)
        self._spans = []
        return seconds


def _watch_parts(watch: _Stopwatch, step: TrainStep, model: Classifier) -> None:
    watch.watch(step, "prepared", "copy")  # copies to the device, converts to floats, and adds jitter
    for encoder, name in ((model.image, "image"), (model.text, "text")):
        if encoder is not None:
            watch.watch(encoder, "forward", name)
    watch.watch(model, "classify", "fusion")
    watch.watch(step.backend, "backward", "backward")
    watch.watch(step.backend, "update", "optimizer")


def load_steps(config: Config, turns: int) -> Loaded:
    """Load `turns` steps of synthetic studies after one that warms up; keeps the median time and the last step."""
    seconds: list[float] = []
    batches: list[Batch] = []
    with tempfile.TemporaryDirectory() as folder:
        shards = make_shards(Path(folder), 2 * max(100, config.data.global_batch), _SIDE)
        data = replace(config.data, shards=str(shards), workers=0)
        with prepared(shards, workers=0) as made:
            micro_batches = stream(data, made.tokenizer, seed=config.seed)
            for _ in range(turns + 1):
                batches.clear()
                seconds.append(timed(lambda: batches.extend(islice(micro_batches, config.data.num_lanes))))
    pinned = [batch.pin_memory() if torch.cuda.is_available() else batch for batch in batches]
    return Loaded(statistics.median(seconds[1:]), pinned)


def _operations(model: Classifier, config: Config, batches: list[Batch]) -> dict[str, float]:
    """The operations of each phase in a whole step."""
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
            reached = operations[name] / seconds[name] / ceilings.operations_per_second
            table[name] |= {"operations": operations[name], "of_ceiling": reached}
    return table
