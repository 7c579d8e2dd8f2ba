"""Training speed for the log: samples per second, the share of time spent waiting for data, and model FLOPs."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from cxr_dist.config.run import Config
from cxr_dist.data.batch import Batch
from cxr_dist.distributed.reduce import sum_over_ranks
from cxr_dist.distributed.world import World
from cxr_dist.model.classifier import Encoders
from cxr_dist.train.flops import count_flops, device_peak


class Clock:
    """Wall time between two log lines, without validation, saving and writing a profile (`paused`)."""

    def __init__(self) -> None:
        self._is_paused = False
        self.start(0)

    def start(self, step: int) -> None:
        """Start a new lap after this step."""
        self._started, self._waited, self._step = time.perf_counter(), 0.0, step

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Context manager around waiting for data."""
        before = time.perf_counter()
        yield
        self._waited += time.perf_counter() - before

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Context manager around work that does not count; it may be nested, as a save inside of a validation is."""
        if self._is_paused:
            yield
            return
        before, self._is_paused = time.perf_counter(), True
        try:
            yield
        finally:
            self._is_paused = False
            self._started += time.perf_counter() - before

    def lap(self, step: int) -> tuple[int, float, float]:
        """End the lap after `step`: its steps, its seconds, and how many of them were spent waiting for data."""
        lap = step - self._step, time.perf_counter() - self._started, self._waited
        self.start(step)
        return lap


class Speed:
    """Measures the speed between two log lines on the host, without waiting for the device.

    Model FLOPs utilisation is the model's operations per second (flops.py) divided by the peak rate of all ranks'
    devices. It is logged if the peak rate is known.
    """

    def __init__(self, config: Config, model: Encoders, world: World, clock: Clock) -> None:
        self.config, self.world, self.clock = config, world, clock
        self._flops = count_flops(model, config.data.image_size)
        self._peak = device_peak(world.device, config.precision)
        self._done = 0.0  # operations of this rank in this lap

    def count(self, batches: Sequence[Batch], *, frozen: bool) -> None:
        """Add a step over these micro-batches, with the encoders `frozen` or not."""
        if self._flops:
            self._done += sum(self._flops.of(batch, frozen=frozen) for batch in batches)

    def lap(self, step: int) -> dict[str, float]:
        """Values for the log since the last lap (all ranks). Only the wait for data is that of this rank alone."""
        steps, seconds, waited = self.clock.lap(step)
        figures = {
            "samples_per_second": round(steps * self.config.data.global_batch / seconds, 2),
            "data_wait_share": round(waited / seconds, 4),
        }
        if self._flops:
            done = torch.tensor(self._done, dtype=torch.float64, device=self.world.device)
            rate = float(sum_over_ranks(done)) / seconds
            figures["model_tflops_per_second"] = _significant(rate / 1e12)
            if self._peak:
                figures["model_flops_utilisation"] = _significant(rate / (self._peak * self.world.world_size))
        self._done = 0.0
        return figures


def _significant(value: float) -> float:
    """Rounded to four significant digits, because rates span many orders of magnitude."""
    return float(f"{value:.4g}")
