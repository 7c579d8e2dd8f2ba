"""Training on the terminal: a progress bar, or one line for each logged step where standard error is a file or pipe."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cxr_dist.errors import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Terminal:
    """Tracker that shows epoch, loss, learning rate, speed and the time that is left.

    No line of a log has a carriage return. The time left includes validations, as far as there were any.
    """

    def __init__(self, console: Console, resumed_step: int, total_steps: int, epochs: int) -> None:
        self._console, self._total, self._epochs = console, total_steps, epochs
        self._first: tuple[int, float] | None = None  # step and time of the first line
        # All columns fit into 80 characters.
        columns = (BarColumn(8), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, TextColumn("{task.fields[note]}", markup=False), console=console)
        self._task = self._bar.add_task("", total=total_steps, completed=resumed_step, note="")
        if console.is_terminal:
            self._bar.start()

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Show a logged step, or of a validation mean AUC and accuracy, or the mean recall of retrieval."""
        if "train/loss" in values:
            self._step(values, step)
        if (recall := values.get("validation/retrieval/mean_recall")) is not None:
            self._print(f"step {step}  validation: mean recall {recall:.3f}")
        elif any(name.startswith("validation/") for name in values):
            scores = (values.get(f"validation/{name}") for name in ("macro/roc_auc", "accuracy"))
            auc, accuracy = ("undefined" if score is None else f"{score:.3f}" for score in scores)
            self._print(f"step {step}  validation: mean AUC {auc}  accuracy {accuracy}")

    def figure(self, name: str, figure: "Figure", step: int) -> None:
        """Figures are not shown."""

    def close(self) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def _step(self, values: Mapping[str, float], step: int) -> None:
        loss, rate = f"loss {values['train/loss']:.4f}", values.get("train/learning_rate")
        rate_note = "" if rate is None else f"lr {rate:.1e}  "
        if self._console.is_terminal:
            epoch = f"epoch {min(int(values['epoch']) + 1, self._epochs)}/{self._epochs}"
            self._bar.update(self._task, completed=step, note=f"{epoch} {loss} {rate_note}{speed_note(values)}")
            return
        place = f"step {step} of {self._total}  epoch {values['epoch']:.2f} of {self._epochs}"
        self._print(f"{place}  {loss}  {rate_note}{_about_pairs(values)}{speed_in_words(values)}{self._left(step)}")

    def _left(self, step: int) -> str:
        """The time left, from the second line on."""
        now = time.monotonic()
        if self._first is None:
            self._first = step, now
            return ""
        first, then = self._first
        seconds = round((self._total - step) * (now - then) / max(1, step - first))
        return f"  {seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} left"

    def _print(self, line: str) -> None:
        print_line(self._console, line)


def _about_pairs(values: Mapping[str, float]) -> str:
    """Temperature and masked pairs of contrastive pretraining; empty for other runs."""
    if "train/temperature" not in values:
        return ""
    return f"temperature {values['train/temperature']:.3f}  masked pairs {values['train/masked_pairs']:.0f}  "


def print_line(console: Console, line: str) -> None:
    """Print a line as it is: neither rich's markup nor control characters in it have an effect."""
    console.print(printable(line), highlight=False, markup=False, soft_wrap=True)


def speed_in_words(values: Mapping[str, float]) -> str:
    """Format the speed, such as `2310 samples/s  data wait 0%  MFU 20%`.

    Model FLOPs utilisation (MFU) is included if it is known; floating-point operations are for the other trackers.
    """
    said = f"{values['train/samples_per_second']:.0f} samples/s  data wait {values['train/data_wait_share']:.0%}"
    return said + _utilisation(values)


def speed_note(values: Mapping[str, float]) -> str:
    """The speed in fewer characters, such as `2310/s wait 0%`, to stand beside a bar."""
    return f"{values['train/samples_per_second']:.0f}/s wait {values['train/data_wait_share']:.0%}"


def _utilisation(values: Mapping[str, float]) -> str:
    share = values.get("train/model_flops_utilisation")
    return "" if share is None else f"  MFU {share:.0%}"
