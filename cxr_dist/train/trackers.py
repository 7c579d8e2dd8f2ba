"""Trackers record and show a training run on rank 0: metrics.jsonl, TensorBoard, the console and trackers of the user.

`--trackers FILE.py:NAME` adds a tracker. NAME is called as `NAME(run_dir, config)` and returns a `Tracker`; see
examples/own_tracker. Trackers receive numbers and figures, but never report text, patient ids or images.

Values are named train/NAME for a logged step, and validation/NAME and draws/CLASS (samples drawn since the last
validation) for a validation. Both come with `epoch`, a fraction: 1.5 is the middle of the second epoch. With more than
50 classes there are no values of single classes, which `cxr-dist evaluate` writes.
"""

import contextlib
import inspect
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from rich.console import Console
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from cxr_dist.config.file import to_plain, to_yaml
from cxr_dist.config.lookup import guarded, look_up
from cxr_dist.config.run import Config
from cxr_dist.distributed.world import World
from cxr_dist.errors import UserError, printable
from cxr_dist.run.folder import MetricsLog
from cxr_dist.train import tensorboard_tags as tags
from cxr_dist.train.external_trackers import Mlflow, Wandb, missing
from cxr_dist.train.terminal import Terminal, print_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Tracker(Protocol):
    """Interface of a tracker (rank 0)."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Record values of a step, counted from 1. A resumed run repeats the steps after its checkpoint."""

    def figure(self, name: str, figure: "Figure", step: int) -> None:
        """Record a matplotlib figure of the validation at this step."""

    def close(self) -> None:
        """The last call, when the run has ended, finished or not."""


NewTracker = Callable[[Path, Mapping[str, object]], Tracker]
"""Makes a tracker from the run folder and the configuration as in config.yaml."""
TRACKERS: Mapping[str, NewTracker] = {"mlflow": Mlflow, "wandb": Wandb}
"""The package's optional trackers by name."""


class Trackers:
    """All trackers of a run. Called on all ranks, acts on rank 0."""

    def __init__(self, config: Config, run_dir: Path, world: World) -> None:
        """Make the user's trackers. Raises UserError if that fails or the result is not a `Tracker`."""
        self.config, self.run_dir, self.world = config, run_dir, world
        self.console = Console(stderr=True)
        self._trackers: list[Tracker] = []
        self._failed: set[str] = set()
        if world.is_main:
            self._trackers = [_Guarded(name, config, run_dir, self.say) for name in config.trackers]

    def open(self, resumed_step: int, total_steps: int) -> None:
        """Open the package's trackers. `resumed_step` is 0 for a new run."""
        if not self.world.is_main:
            return
        own: list[Tracker] = []
        for new_tracker in (
            lambda: JsonLines(self.run_dir, resumed_step),
            lambda: TensorBoard(self.run_dir, resumed_step, self.config),
            lambda: Terminal(self.console, resumed_step, total_steps, self.config.train.epochs),
        ):
            with self._going_on("a tracker"):
                own.append(new_tracker())
        self._trackers[:0] = own
        if resumed_step:
            self.say(f"resumed after step {resumed_step} of {total_steps}")

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Call `Tracker.log` of all trackers."""
        for tracker in self._trackers:
            with self._going_on(type(tracker).__name__):
                tracker.log(values, step)

    def figures(self, draw: Callable[[], Mapping[str, "Figure"]], step: int) -> None:
        """Draw figures and call `Tracker.figure` of all trackers for each."""
        if not self.world.is_main:
            return
        with self._going_on("drawing a figure"):
            for name, figure in draw().items():
                self.figure(name, figure, step)

    def figure(self, name: str, figure: "Figure", step: int) -> None:
        """Call `Tracker.figure` of all trackers."""
        for tracker in self._trackers:
            with self._going_on(type(tracker).__name__):
                tracker.figure(name, figure, step)

    def say(self, message: str) -> None:
        """Print a line on the console."""
        if self.world.is_main:
            with contextlib.suppress(OSError):  # such as a log on a full disk
                print_line(self.console, message)

    def close(self) -> None:
        """Call `Tracker.close` of all trackers."""
        for tracker in self._trackers:
            with self._going_on(type(tracker).__name__):
                tracker.close()

    @contextlib.contextmanager
    def _going_on(self, what: str) -> Iterator[None]:
        """Report the first error of `what` inside such a block, without its message; training goes on."""
        try:
            yield
        except Exception as error:
            reason = (
                str(error) if isinstance(error, UserError) else f"{type(error).__name__} {_strerror(error)}".strip()
            )
            if what not in self._failed:
                self.say(f"{what} failed ({reason}): training goes on")
            self._failed.add(what)


def _strerror(error: Exception) -> str:
    return (error.strerror or "") if isinstance(error, OSError) else ""


_FIELDS = {"mean_auc": "macro/roc_auc", "accuracy": "accuracy", "macro_f1": "macro/f1", "loss": "log_loss"}


class JsonLines:
    """metrics.jsonl: one line for each logged step and for each validation."""

    def __init__(self, run_dir: Path, resumed_step: int) -> None:
        """Drops lines after the resumed step, because the run repeats these steps."""
        self._log = MetricsLog(run_dir, resumed_step)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Write the values as one line each for training and validation."""
        place = {"step": step, "epoch": values["epoch"]}
        if train := _under("train/", values):
            self._log.write(place | train)
        if validation := _under("validation/", values):
            recalls = _under("retrieval/", validation)  # of contrastive pretraining
            chosen: Mapping[str, float | None] = {f: validation.get(name) for f, name in _FIELDS.items()}
            self._log.write(place | {"validation": {**chosen, **recalls}})

    def figure(self, name: str, figure: "Figure", step: int) -> None:
        """Figures are not recorded."""

    def close(self) -> None:
        self._log.close()


class TensorBoard:
    """TensorBoard event files in the run folder: values, figures and, with a configuration, the settings of the run.

    Without a configuration, or with `train.tensorboard_scalars: all`, every value except the epoch is shown.
    """

    def __init__(self, run_dir: Path, resumed_step: int = 0, config: Config | None = None) -> None:
        """Hides events after the resumed step."""
        self._report = threading.excepthook
        threading.excepthook = self._but_its_own
        purge = resumed_step + 1 if resumed_step else None
        self._run_dir, self._end = run_dir, None
        self._everything = config is None or config.train.tensorboard_scalars == "all"
        self._writer = SummaryWriter(str(run_dir), purge_step=purge)  # type: ignore[no-untyped-call]
        self._writer.add_custom_scalars(tags.LAYOUT)  # type: ignore[no-untyped-call]
        if config is not None:
            self._describe(config, resumed_step)

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in tags.shown(values, everything=self._everything):
            self._writer.add_scalar(name, value, step)  # type: ignore[no-untyped-call]

    def figure(self, name: str, figure: "Figure", step: int) -> None:
        self._writer.add_figure(name, figure, step)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Add the best validation, which the tab of hyperparameters shows."""
        try:
            if self._end is not None:
                if best := tags.best_validation(self._run_dir):
                    for name, value in best[1].items():
                        self._writer.add_scalar(name, value, best[0])  # type: ignore[no-untyped-call]
                self._writer._get_file_writer().add_summary(self._end)  # type: ignore[no-untyped-call]
            self._writer.close()  # type: ignore[no-untyped-call]
        finally:
            threading.excepthook = self._report

    def _but_its_own(self, error: threading.ExceptHookArgs) -> None:
        """Report an error of a thread, unless it is the thread that writes events: the next call raises that error."""
        if not type(error.thread).__module__.startswith("tensorboard."):
            self._report(error)

    def _describe(self, config: Config, step: int) -> None:
        text = textwrap.indent(printable(to_yaml(config)), "    ")  # Markdown shows indented lines as they are
        self._writer.add_text("configuration", text, step)  # type: ignore[no-untyped-call]
        metrics = dict.fromkeys((tags.BEST_AUC, tags.BEST_LOSS), 0.0)
        experiment, start, self._end = hparams(tags.settings_of(to_plain(config)), metrics)  # type: ignore[no-untyped-call]
        for part in (experiment, start):
            self._writer._get_file_writer().add_summary(part)  # type: ignore[no-untyped-call]


class _Guarded:
    """A tracker of the user. After its first error, which is reported, it is not called again; training continues."""

    def __init__(self, name: str, config: Config, run_dir: Path, say: Callable[[str], None]) -> None:
        self._name, self._say = name, say
        new_tracker: NewTracker = look_up("tracker", name, TRACKERS)
        with guarded("tracker", name):
            self._tracker: Tracker | None = new_tracker(run_dir, to_plain(config))
        _require_methods(name, self._tracker)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Passes a copy of the values, which the tracker may change."""
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
            self._say(f"{error}: it is not called again, and training continues")


def check_trackers(names: tuple[str, ...]) -> None:
    """Raise UserError if a tracker is not found or has the wrong signature or methods, without making it."""
    for name in names:
        new_tracker = look_up("tracker", name, TRACKERS)
        if name in TRACKERS and find_spec(name) is None:  # they have the names of their packages
            raise missing(name, name)
        try:
            inspect.signature(new_tracker).bind(Path(), {})
        except TypeError:
            raise UserError(f"tracker {name!r} cannot be called as NAME(run_dir, config)") from None
        except ValueError:  # written in C
            continue
        if isinstance(new_tracker, type):
            _require_methods(name, new_tracker)


def _require_methods(name: str, tracker: object) -> None:
    methods = ("log", "figure", "close")
    if lacking := [name for name in methods if not callable(getattr(tracker, name, None))]:
        expected = "log(values, step), figure(name, figure, step) and close()"
        raise UserError(f"tracker {name!r} has no method {lacking[0]!r}; expected {expected}")


def _under(prefix: str, values: Mapping[str, float]) -> dict[str, float]:
    """The values whose names start with this prefix, which is removed."""
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
