"""Trackers: what records and shows a training run, on rank 0.

metrics.jsonl, TensorBoard and the console are always there; `--trackers FILE.py:NAME` adds one of the user's own. NAME
is called as `NAME(run_dir, config)` and returns a `Tracker`; examples/own_tracker has one. Trackers are given numbers
and figures, and never report text, patient ids or images.

Names of values: train/NAME for a logged step; validation/NAME and draws/CLASS (samples drawn since the last validation)
for a validation; and `epoch` (a fraction: 1.5 is the middle of the second epoch) with both.
"""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from cxr_dist.config.file import to_plain
from cxr_dist.config.lookup import guarded, look_up
from cxr_dist.config.run import Config
from cxr_dist.distributed.world import World
from cxr_dist.errors import UserError
from cxr_dist.run.folder import MetricsLog

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Tracker(Protocol):
    """Records a run (rank 0)."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Numbers of the step, which counts from 1. A resumed run repeats the steps after its checkpoint."""

    def figure(self, name: str, figure: "Figure", step: int) -> None:
        """A matplotlib figure of the validation at this step."""

    def close(self) -> None:
        """The run has ended, finished or not; nothing is called after it."""


NewTracker = Callable[[Path, Mapping[str, object]], Tracker]
"""From the run folder and the configuration, as config.yaml has it, to a tracker."""
TRACKERS: Mapping[str, NewTracker] = {}
"""Optional trackers of the package by name; there are none so far."""
_METHODS = ("log", "figure", "close")


class Trackers:
    """All trackers of a run as one: called on all ranks, acts on rank 0."""

    def __init__(self, config: Config, run_dir: Path, world: World) -> None:
        """Make the user's own. Raises UserError where one cannot be made, or is not a `Tracker`."""
        self.config, self.run_dir, self.world = config, run_dir, world
        self.console = Console(stderr=True)
        self._trackers: list[Tracker] = []
        if world.is_main:
            self._trackers = [_Guarded(name, config, run_dir, self.say) for name in config.trackers]

    def open(self, resumed_step: int, total_steps: int) -> None:
        """The run starts, or resumes after this step."""
        if not self.world.is_main:
            return
        self._trackers[:0] = [
            JsonLines(self.run_dir, resumed_step),
            TensorBoard(self.run_dir, resumed_step),
            Terminal(self.console, self.config.run, resumed_step, total_steps),
        ]
        if resumed_step:
            self.say(f"resumed after step {resumed_step} of {total_steps}")

    def log(self, values: Mapping[str, float], step: int) -> None:
        """`Tracker.log` of all."""
        for tracker in self._trackers:
            tracker.log(values, step)

    def figure(self, name: str, figure: "Figure", step: int) -> None:
        """`Tracker.figure` of all."""
        for tracker in self._trackers:
            tracker.figure(name, figure, step)

    def say(self, message: str) -> None:
        """Print a line on the console."""
        if self.world.is_main:
            self.console.print(message, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """`Tracker.close` of all."""
        for tracker in self._trackers:
            tracker.close()


_VALIDATION_FIELDS = {
    "mean_auc": "macro/roc_auc",
    "accuracy": "accuracy",
    "macro_f1": "macro/f1",
    "loss": "log_loss",
}


class JsonLines:
    """metrics.jsonl: a line for each logged step and for each validation."""

    def __init__(self, run_dir: Path, resumed_step: int) -> None:
        """Lines after the resumed step are dropped, because they are written again."""
        self._log = MetricsLog(run_dir, resumed_step)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """One line, in the form that the file has always had."""
        place = {"step": step, "epoch": values["epoch"]}
        if train := _under("train/", values):
            self._log.write(place | train)
        if validation := _under("validation/", values):
            chosen = {field: validation.get(name) for field, name in _VALIDATION_FIELDS.items()}
            self._log.write(place | {"validation": chosen})

    def figure(self, name: str, figure: "Figure", step: int) -> None:
        """Figures have no place in it."""

    def close(self) -> None:
        """Close the file."""
        self._log.close()


class TensorBoard:
    """Event files in the run folder: all values but the epoch by their names, and all figures."""

    def __init__(self, run_dir: Path, resumed_step: int = 0) -> None:
        """TensorBoard hides what was written for later steps than the resumed one."""
        purge = resumed_step + 1 if resumed_step else None
        self._writer = SummaryWriter(str(run_dir), purge_step=purge)  # type: ignore[no-untyped-call]

    def log(self, values: Mapping[str, float], step: int) -> None:
        """One scalar for each value."""
        for name, value in values.items():
            if name != "epoch":
                self._writer.add_scalar(name, value, step)  # type: ignore[no-untyped-call]

    def figure(self, name: str, figure: "Figure", step: int) -> None:
        """One image."""
        self._writer.add_figure(name, figure, step)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Write what is buffered and close the file."""
        self._writer.close()  # type: ignore[no-untyped-call]


class Terminal:
    """A progress bar on a terminal; elsewhere, as in a job's log, a line for each logged step."""

    def __init__(self, console: Console, title: str, resumed_step: int, total_steps: int) -> None:
        self._console = console
        columns = (
            TextColumn("[bold]{task.description}"),
            BarColumn(12),  # all fits into 80 columns
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, TextColumn("{task.fields[note]}"), console=console)
        self._task = self._bar.add_task(title, total=total_steps, completed=resumed_step, note="")
        if console.is_terminal:
            self._bar.start()

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Loss and speed of a step, or mean AUC and accuracy of a validation."""
        if train := _under("train/", values):
            loss = f"loss {train['loss']:.4f}"
            self._bar.update(self._task, completed=step, note=f"{loss}  {speed_in_words(train, short=True)}")
            if not self._console.is_terminal:
                self._print(f"step {step}  epoch {values['epoch']:.2f}  {loss}  {speed_in_words(train)}")
        if validation := _under("validation/", values):
            auc, accuracy = (
                f"{validation[name]:.3f}" if name in validation else "undefined"
                for name in ("macro/roc_auc", "accuracy")
            )
            self._print(f"step {step}  validation: mean AUC {auc}  accuracy {accuracy}")

    def figure(self, name: str, figure: "Figure", step: int) -> None:
        """Figures have no place on it."""

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.stop()

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True)


class _Guarded:
    """A tracker of the user's own: its first error is said, and then it is left alone; training goes on."""

    def __init__(self, name: str, config: Config, run_dir: Path, say: Callable[[str], None]) -> None:
        self._name, self._say = name, say
        new_tracker: NewTracker = look_up("tracker", name, TRACKERS)
        with guarded("tracker", name):
            self._tracker: Tracker | None = new_tracker(run_dir, to_plain(config))
        _require_methods(name, self._tracker)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Copies, so that what a tracker does to them stays its own."""
        self._call(lambda tracker: tracker.log(dict(values), step))

    def figure(self, name: str, figure: "Figure", step: int) -> None:
        self._call(lambda tracker: tracker.figure(name, figure, step))

    def close(self) -> None:
        self._call(lambda tracker: tracker.close())

    def _call(self, method: Callable[[Tracker], None]) -> None:
        if self._tracker is None:
            return
        try:
            with guarded("tracker", self._name):
                method(self._tracker)
        except UserError as error:
            self._tracker = None
            self._say(f"{error}: it is not called again, and training goes on")


def check_trackers(names: tuple[str, ...]) -> None:
    """Raise UserError for a tracker that is not found or certainly none, before anything is made (any rank)."""
    for name in names:
        new_tracker = look_up("tracker", name, TRACKERS)
        try:
            inspect.signature(new_tracker).bind(Path(), {})
        except TypeError:
            raise UserError(f"tracker {name!r} cannot be called as NAME(run_dir, config)") from None
        except ValueError:  # written in C
            continue
        if isinstance(new_tracker, type):
            _require_methods(name, new_tracker)


def _require_methods(name: str, tracker: object) -> None:
    lacking = [method for method in _METHODS if not callable(getattr(tracker, method, None))]
    if lacking:
        expected = "log(values, step), figure(name, figure, step) and close()"
        raise UserError(f"tracker {name!r} has no method {lacking[0]!r}; expected {expected}")


def _under(prefix: str, values: Mapping[str, float]) -> dict[str, float]:
    """The values whose names begin so, without it."""
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


def speed_in_words(train: Mapping[str, float], *, short: bool = False) -> str:
    """A log line's speed: `2310 samples/s  data wait 0%  198 TFLOP/s  MFU 20%`; `short` to fit beside a bar.

    Model FLOPs utilisation (MFU) is there where the GPU's peak is known.
    """
    wait, rate = f"{train['data_wait_share']:.0%}", train.get("model_tflops_per_second")
    said = [f"{train['samples_per_second']:.0f}{'/s' if short else ' samples/s'}"]
    said.append(f"wait {wait}" if short else f"data wait {wait}")
    if rate is not None and not short:
        said.append(f"{rate:.3g} TFLOP/s" if rate >= 0.1 else f"{1000 * rate:.3g} GFLOP/s")
    if "model_flops_utilisation" in train:
        said.append(f"MFU {train['model_flops_utilisation']:.0%}")
    return "  ".join(said)
