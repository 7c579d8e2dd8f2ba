"""What a log line says of speed: samples, waiting for data, and how much of the device the model uses."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch

from cxr_dist.config.run import Config
from cxr_dist.data.batch import Batch
from cxr_dist.distributed.reduce import sum_over_ranks
from cxr_dist.distributed.world import World
from cxr_dist.model.classifier import Classifier
from cxr_dist.train.flops import count_flops, device_peak


class Lap(NamedTuple):
    """What happened between two log lines."""

    steps: int
    seconds: float
    """Wall time, without validation, saving and the writing of a profile."""
    waited: float
    """Seconds of them that waited for data."""


class Clock:
    """Wall time between two log lines, without what is paused for."""

    def __init__(self) -> None:
        self.start(0)

    def start(self, step: int) -> None:
        """Begin a lap after this step."""
        self._started, self._waited, self._step = time.perf_counter(), 0.0, step

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A block that waits for data."""
        before = time.perf_counter()
        yield
        self._waited += time.perf_counter() - before

    @contextmanager
    def paused(self) -> Iterator[None]:
        """A block that does not count."""
        before = time.perf_counter()
        yield
        self._started += time.perf_counter() - before

    def lap(self, step: int) -> Lap:
        """End this lap after `step`, and begin the next."""
        lap = Lap(step - self._step, time.perf_counter() - self._started, self._waited)
        self.start(step)
        return lap


class Speed:
    """Counts steps between two log lines, on the host: the device is not waited for.

    Model FLOPs utilisation is the model's operations per second (flops.py says which count) over what all ranks'
    devices can do by their data sheet. It is logged where that is known.
    """

    def __init__(
        self, config: Config, model: Classifier, world: World, device: torch.device, clock: Clock
    ) -> None:
        self.config, self.world, self.device, self.clock = config, world, device, clock
        self._flops = count_flops(model, config.data.image_size)
        self._peak = device_peak(device, config.precision)
        self._done = 0.0  # operations of this rank since the last line

    def count(self, batches: Sequence[Batch], *, frozen: bool) -> None:
        """A step over these micro-batches was taken, with the encoders frozen or not."""
        if self._flops:
            self._done += sum(self._flops.of(batch, frozen=frozen) for batch in batches)

    def lap(self, step: int) -> dict[str, float]:
        """The figures since the last lap (all ranks): of all ranks, but for the wait, which is this one's."""
        lap = self.clock.lap(step)
        figures = {
            "samples_per_second": round(lap.steps * self.config.data.global_batch / lap.seconds, 2),
            "data_wait_share": round(lap.waited / lap.seconds, 4),
        }
        if self._flops:
            done = torch.tensor(self._done, dtype=torch.float64, device=self.device)
            rate = float(sum_over_ranks(done)) / lap.seconds
            figures["model_tflops_per_second"] = _significant(rate / 1e12)
            if self._peak:
                figures["model_flops_utilisation"] = _significant(rate / (self._peak * self.world.world_size))
        self._done = 0.0
        return figures


def _significant(value: float) -> float:
    """To four digits: rates span from a CPU with a toy model to a thousand GPUs."""
    return float(f"{value:.4g}")
