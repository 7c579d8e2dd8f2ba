"""`--train.profile START:STOP`: what some steps spend their time on, as a trace and a table of the ten largest costs.

Rank 0 records, because all ranks take the same steps. The trace holds names, shapes and times of operations: no data,
no call stacks, no paths.
"""

import gzip
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from cxr_dist.distributed.watch.progress import enter
from cxr_dist.files import write_whole

_LARGEST = 10
_STEP = "step"  # as the trace shows it


class StepProfile:
    """Records this start's steps after the first START up to the STOP-th (all ranks call alike, rank 0 records).

    A context around the steps: where the run ends in between, what was recorded until then is written.
    """

    def __init__(
        self,
        steps: range,
        folder: Path | None,
        say: Callable[[str], None],
        paused: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """No `steps`: nothing is recorded. `folder` is for the trace; None on a rank that does not record.

        The trace is written inside `paused`.
        """
        self.steps, self.folder, self.say, self.paused = steps, folder, say, paused
        self._taken = 0  # steps of this start
        self._first = 0  # recorded step, in the run's count
        self._recorder: profile | None = None

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Around one step, the run's `number`-th."""
        if self.steps and self._taken == self.steps.start:
            self._start(number)
        with record_function(_STEP):
            yield
        self._taken += 1
        if self.steps and self._taken == self.steps.stop:
            self._finish(number)
        self._last = number

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            if self._recorder:
                self._recorder.stop()
        elif self.steps and self._taken <= self.steps.start:
            self.say(
                f"nothing was profiled: this start ended after {self._taken} steps, and train.profile begins after "
                f"{self.steps.start}"
            )
        elif self.steps and self._taken < self.steps.stop:
            self._finish(self._last)

    def _start(self, number: int) -> None:
        self._first = number
        if self.folder is None:
            return
        os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # it says on stderr that there is no GPU
        activities = [ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(ProfilerActivity.CUDA)
        self._recorder = profile(activities=activities, record_shapes=True)
        self._recorder.start()

    def _finish(self, number: int) -> None:
        enter("writing the profile")
        recorder, self._recorder = self._recorder, None
        if recorder is None or self.folder is None:
            return
        with self.paused():
            recorder.stop()
            # TensorBoard's profiler plugin knows traces by this ending; Perfetto takes any.
            path = self.folder / f"rank0-steps-{self._first}-{number}.pt.trace.json.gz"
            self.folder.mkdir(exist_ok=True)
            write_whole(path, gzip.compress(_trace(recorder), compresslevel=3, mtime=0))
            self.say(f"profile of steps {self._first} to {number}: {path}\n{largest_costs(recorder)}")


def _trace(recorder: profile) -> bytes:
    """In Chrome's trace format, without the path to which torch wrote it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        recorder.export_chrome_trace(str(path))
        return path.read_bytes().replace(str(path).encode(), b"trace.json")


def largest_costs(recorder: profile) -> str:
    """A table of what took most time itself: operations on the GPU, where it did anything, else also Python."""
    # Kernels are listed once more by their own names, as events of the GPU.
    events: list[Any] = [each for each in recorder.key_averages() if each.device_type.name == "CPU"]
    on_gpu = any(event.self_device_time_total for event in events)
    column = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    microseconds = {event: getattr(event, column) for event in events}
    total = sum(microseconds.values()) or 1.0
    lines = [
        f"{'largest costs on the ' + ('GPU' if on_gpu else 'CPU'):<48}{'calls':>8}{'self ms':>12}{'share':>8}"
    ]
    for event in sorted(events, key=lambda event: -microseconds[event])[:_LARGEST]:
        own = microseconds[event]
        name = "Python, between operations" if event.key == _STEP else event.key
        lines.append(f"{name[:46]:<48}{event.count:>8}{own / 1e3:>12.2f}{own / total:>8.1%}")
    return "\n".join(lines)
