"""A sweep: a run in OUT/NAME for every combination of values of some fields.

OUT/sweep.json records the job of each run. All other states are read from the run folders and SLURM's queue, so that
any process can show them, without an accounting database.
"""

import hashlib
import itertools
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from cxr_dist.config.flags import config_of
from cxr_dist.config.run import Config
from cxr_dist.errors import UserError
from cxr_dist.files import write_whole
from cxr_dist.launch.job_states import GOES_ON

_LONGEST_NAME = 120  # characters
_SHORTEST_POLL, _LONGEST_POLL = 1.0, 15.0  # seconds
_FINISHED = "finished"


@dataclass(frozen=True, kw_only=True)
class SweepRun:
    """One combination of values."""

    name: str
    """Name of the run's folder in OUT, such as `optim.lr=1e-4,seed=1`."""
    flags: tuple[str, ...]
    """All flags of `cxr-dist train`, including --out."""
    config: Config


@dataclass(frozen=True, kw_only=True)
class RunState:
    """The present state of a run of the sweep."""

    name: str
    job: str
    state: str
    """`finished`, SLURM's state in lower case, or, if SLURM no longer knows the job, `stopped` or `not started`."""
    step: int | None
    """Last logged step."""
    best_auc: float | None
    """Best mean validation AUC so far."""

    @property
    def goes_on(self) -> bool:
        """Whether the run's job is queued or running."""
        return self.state.upper() in GOES_ON

    @property
    def finished(self) -> bool:
        """Whether the run has done all its steps or has been stopped early by its settings."""
        return self.state == _FINISHED


def sweep_runs(run: str, flags: Sequence[str], sweeps: Sequence[str], out: Path) -> list[SweepRun]:
    """Return every combination of `field=value,value` lists, the last list varying fastest.

    Raises UserError for an invalid list, a field that is given twice and two runs that are equal. A field or value that
    the run does not accept ends the process, as on the command line.
    """
    lists = [_values(text) for text in sweeps]
    given = [flag.partition("=")[0] for flag in flags if flag.startswith("--")]
    given += [f"--{field}" for field, _ in lists]
    for field, _ in lists:
        if [name.replace("_", "-") for name in given].count(f"--{field}") > 1 or field == "out":
            raise UserError(f"--sweep {field}=… and the same field a second time, or the run folder: give it once")
    fields = [field for field, _ in lists]
    combinations = itertools.product(*(values for _, values in lists))
    runs = [_combination(run, flags, fields, values, out) for values in combinations]
    for first, second in itertools.combinations(runs, 2):
        if first.name == second.name or replace(first.config, out="") == replace(second.config, out=""):
            raise UserError(f"--sweep gives the same run twice: {first.name} and {second.name}")
    return runs


def _values(text: str) -> tuple[str, list[str]]:
    field, _, values = text.partition("=")
    listed = values.split(",")
    if not field or not all(value.strip() for value in listed):
        raise UserError(f"--sweep {text}: expected FIELD=VALUE,VALUE,… as in --sweep optim.lr=1e-4,2e-4")
    return field.lstrip("-").replace("_", "-"), listed


def _combination(run: str, flags: Sequence[str], fields: list[str], values: Sequence[str], out: Path) -> SweepRun:
    pairs = list(zip(fields, values, strict=True))
    name = _safe(",".join(f"{field}={value}" for field, value in pairs))
    own = [word for field, value in pairs for word in (f"--{field}", *value.split())]
    whole = (*flags, *own, "--out", str(out / name))
    return SweepRun(name=name, flags=whole, config=config_of(run, whole, f"cxr-dist train {run} ({name})"))


def _safe(name: str) -> str:
    """Return a name that is valid and short enough for a folder on any file system."""
    safe = re.sub(r"[^A-Za-z0-9._=,+-]+", "-", name)
    if len(safe) <= _LONGEST_NAME:
        return safe
    return f"{safe[: _LONGEST_NAME - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


class Sweep:
    """A folder of runs and the last job of each run."""

    def __init__(self, out: Path) -> None:
        self.out, self._path = out, out / "sweep.json"
        self.jobs: dict[str, str] = json.loads(self._path.read_text()) if self._path.is_file() else {}
        if not self.jobs and out.is_dir() and any(out.iterdir()):
            raise UserError(f"{out} is not empty and not a sweep: choose another --out")

    def record(self, jobs: Mapping[str, str]) -> None:
        """Write the job of each of these runs to sweep.json, in a folder that only the user can read."""
        self.out.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.jobs |= jobs
        write_whole(self._path, json.dumps(self.jobs, indent=1) + "\n")

    def open_runs(self, runs: Sequence[SweepRun], queue: Mapping[str, str]) -> list[SweepRun]:
        """Return the runs that have neither finished nor have a job in the queue."""
        done = {state.name for state in self.states(queue) if state.finished or state.goes_on}
        return [run for run in runs if run.name not in done]

    def states(self, queue: Mapping[str, str]) -> list[RunState]:
        """Return the states of all runs that were ever submitted; `queue` is job id -> SLURM's state."""
        return [self._state(name, job, queue) for name, job in self.jobs.items()]

    def _state(self, name: str, job: str, queue: Mapping[str, str]) -> RunState:
        from cxr_dist.run.folder import is_finished  # imports torch, which takes seconds

        folder = self.out / name
        forgotten = "stopped" if folder.is_dir() else "not started"
        in_queue = queue.get(job, forgotten).lower()
        if in_queue == _FINISHED:  # what submitit says of a local job that has ended, even with an error
            in_queue = forgotten
        state = _FINISHED if is_finished(folder) else in_queue
        step, best_auc = _progress(folder / "metrics.jsonl")
        return RunState(name=name, job=job, state=state, step=step, best_auc=best_auc)

    def watch(self, ask: Callable[[], Mapping[str, str]], minutes: float) -> bool:
        """Show the table until no run goes on; return whether all have finished. Raises UserError at the deadline."""
        deadline, seconds = time.monotonic() + 60 * minutes, _SHORTEST_POLL
        with _shown_table() as show:
            while True:
                states = self.states(ask())
                show(states)
                going = sum(state.goes_on for state in states)
                if not going:
                    return all(state.finished for state in states)
                if time.monotonic() > deadline:
                    raise UserError(
                        f"{going} of {len(states)} runs are not done after {minutes:g} minutes; they continue"
                    )
                time.sleep(seconds)
                seconds = min(1.2 * seconds, _LONGEST_POLL)


@contextmanager
def _shown_table() -> Iterator[Callable[[Sequence[RunState]], None]]:
    """Yield a function that shows the table: updated in place on a terminal, elsewhere printed if a state changed."""
    console = Console()
    known: list[tuple[str, ...]] = [()]
    if console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            yield lambda states: live.update(table(states), refresh=True)
        return

    def show(states: Sequence[RunState]) -> None:
        now = tuple(state.state for state in states)
        if now != known[-1]:
            known.append(now)
            console.print(table(states))

    yield show


def table(states: Sequence[RunState]) -> Table:
    """Return the states of the runs as a table for a terminal."""
    shown = Table()
    shown.add_column("run", overflow="fold")
    shown.add_column("job")
    shown.add_column("state")
    shown.add_column("step", justify="right")
    shown.add_column("best validation AUC", justify="right")
    for run in states:
        auc = "" if run.best_auc is None else f"{run.best_auc:.3f}"
        shown.add_row(run.name, run.job, run.state, "" if run.step is None else str(run.step), auc)
    return shown


def _progress(metrics: Path) -> tuple[int | None, float | None]:
    """Return the last step and the best mean AUC in a metrics.jsonl, whose last line may be incomplete."""
    lines = metrics.read_text().splitlines() if metrics.is_file() else []
    records = [json.loads(line) for line in lines if line.endswith("}")]
    aucs = [record["validation"]["mean_auc"] for record in records if "validation" in record]
    known = [auc for auc in aucs if auc is not None]
    return (records[-1]["step"] if records else None), max(known, default=None)
