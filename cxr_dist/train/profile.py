"""`--train.profile START:STOP`: profiles some steps, as a trace and a table of the operations that take the most time.

Only rank 0 records, because all ranks run the same steps. The trace contains names, shapes and times of operations, but
no data, call stacks or paths.
"""

import gzip
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from cxr_dist.distributed.watch.progress import enter
from cxr_dist.files import write_whole

_LARGEST = 10
_STEP = "step"  # name in the trace


class StepProfile:
    """Profiles the steps from START + 1 to STOP of this start (called on all ranks, rank 0 records).

    A context manager around all steps: if the run ends early, it writes the steps recorded so far.
    """

    def __init__(
        self,
        steps: range,
        folder: Path | None,
        say: Callable[[str], None],
        paused: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """`steps` may be empty; `folder` is None on ranks other than 0. The trace is written inside `paused`."""
        self.steps, self.folder, self.say, self.paused = steps, folder, say, paused
        self._taken = 0  # steps of this start so far
        self._first = 0  # number of the first recorded step in the run
        self._recorder: profile | None = None

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Context manager around step `number` of the run."""
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

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is not None:
            if self._recorder:
                self._recorder.stop()
        elif self.steps and self._taken <= self.steps.start:
            self.say(
                f"nothing was profiled: this start ended after {self._taken} steps, but train.profile begins after "
                f"{self.steps.start}"
            )
        elif self.steps and self._taken < self.steps.stop:
            self._finish(self._last)

    def _start(self, number: int) -> None:
        self._first = number
        if self.folder is None:
            return
        os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # otherwise Kineto warns on stderr if there is no GPU
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
            # TensorBoard's profiler plugin requires this extension; Perfetto accepts any.
            path = self.folder / f"rank0-steps-{self._first}-{number}.pt.trace.json.gz"
            self.folder.mkdir(exist_ok=True)
            write_whole(path, gzip.compress(_trace(recorder), compresslevel=3, mtime=0))
            self.say(f"profile of steps {self._first} to {number}: {path}\n{largest_costs(recorder)}")


def _trace(recorder: profile) -> bytes:
    """The trace in Chrome's format, without the path of the file to which torch wrote it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        recorder.export_chrome_trace(str(path))
        return path.read_bytes().replace(str(path).encode(), b"trace.json")


def largest_costs(recorder: profile) -> str:
    """A table of the operations with the largest self time, on the GPU if it was used, else on the CPU."""
    # Events of the GPU are excluded: they list the same kernels again under their own names.
    events: list[Any] = [event for event in recorder.key_averages() if event.device_type.name == "CPU"]
    on_gpu = any(event.self_device_time_total for event in events)
    column = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    microseconds = {event: getattr(event, column) for event in events}
    total = sum(microseconds.values()) or 1.0
    title = f"largest costs on the {'GPU' if on_gpu else 'CPU'}"
    lines = [f"{title:<48}{'calls':>8}{'self ms':>12}{'share':>8}"]
    for event in sorted(events, key=lambda event: -microseconds[event])[:_LARGEST]:
        own = microseconds[event]
        name = "Python, between operations" if event.key == _STEP else event.key
        lines.append(f"{name[:46]:<48}{event.count:>8}{own / 1e3:>12.2f}{own / total:>8.1%}")
    return "\n".join(lines)
