"""Disturb a running job of four ranks on two nodes: an event happens to a target at a moment.

At that moment the ranks are suspended (SIGSTOP); they are resumed when SLURM or the kernel has acted, so that a small
run cannot end before the event.
"""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from cluster import Cluster
from processes import batch_shell, held, is_pending, loader_workers, on_node, ranks, srun, wait_until

SIGNALS = {name: signal.Signals[name] for name in ("SIGKILL", "SIGTERM", "SIGUSR2", "SIGSTOP")}
PROCESSES = ("rank 0", "rank 1", "rank 2", "rank 3", "loader worker", "srun", "batch shell")
MOMENTS = ("start-up", "step", "save", "validation")


@dataclass(frozen=True, kw_only=True)
class Disturbance:
    """An event, its target and its moment."""

    event: str
    """A key of SIGNALS or of JOB_EVENTS."""
    target: str
    """One of PROCESSES for a signal; "job" or a node's name for an event of SLURM."""
    moment: str
    """One of MOMENTS."""
    after: int = 3
    """For `step`, the number of logged steps; for `save` and `validation`, the first one after so many steps; for
    `start-up`, tenths of a second after all ranks were started."""

    def __str__(self) -> str:
        return f"{self.event} to {self.target} at {self.moment} (after {self.after})"


class Missed(AssertionError):
    """The moment passed before the ranks could be suspended."""


def disturb(cluster: Cluster, job: str, out: Path, disturbance: Disturbance) -> float:
    """Wait for the moment and trigger the event; return the monotonic time at which it began."""
    with held_at(cluster, job, out, disturbance) as stopped:
        began = time.monotonic()
        if disturbance.event in SIGNALS:
            _send(cluster, job, disturbance, stopped)
        else:
            JOB_EVENTS[disturbance.event](cluster, job, disturbance.target)
    return began


@contextmanager
def held_at(cluster: Cluster, job: str, out: Path, disturbance: Disturbance) -> Iterator[list[psutil.Process]]:
    """Suspend the ranks at the disturbance's moment."""
    wait_until(lambda: len(ranks(cluster, job)) == 4, "four ranks started", cluster, job, every=0.2)
    if disturbance.moment == "start-up":
        time.sleep(disturbance.after / 10)
        with held(cluster, job) as stopped:
            yield stopped
        return
    wait_until(lambda: _logged(out) >= disturbance.after, f"{disturbance.after} steps", cluster, job, every=0.01)
    is_now = {
        "step": lambda: True,
        "save": lambda: _is_saving(out),
        "validation": lambda: _is_validating(out),
    }
    with _held_when(cluster, job, is_now[disturbance.moment]) as stopped:
        yield stopped


@contextmanager
def _held_when(cluster: Cluster, job: str, condition: Callable[[], bool]) -> Iterator[list[psutil.Process]]:
    """Suspend the ranks while the condition holds; try again if it no longer holds once they are suspended."""
    for _ in range(20):
        main = next(iter(ranks(cluster, job)), None)
        if main is not None and _is_held_when(condition, main):
            with held(cluster, job) as stopped:
                yield stopped
            return
    raise Missed("the run ended before its ranks could be suspended at the moment")


def _is_held_when(condition: Callable[[], bool], main: psutil.Process) -> bool:
    """Suspend rank 0, which saves and logs, while the condition holds; return False if this came too late."""
    with contextlib.suppress(psutil.NoSuchProcess), _before_others():
        while not condition() and main.is_running():
            time.sleep(0.0005)
        main.suspend()
        if condition():
            return True
        main.resume()
    return False


@contextmanager
def _before_others() -> Iterator[None]:
    """Raise this thread's priority, because a save of such a small run takes only milliseconds."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, -15)
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, before)


def _logged(out: Path) -> int:
    metrics = out / "metrics.jsonl"
    return metrics.read_text().count('"loss": ') if metrics.exists() else 0


def _is_saving(out: Path) -> bool:
    folder = out / "checkpoints"
    return folder.exists() and any(path.name.endswith(".partial") for path in folder.iterdir())


def _is_validating(out: Path) -> bool:
    """Return whether the step before a validation has been logged, but not yet the validation's result."""
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return bool(lines) and '"step": 20,' in lines[-1] and '"validation"' not in lines[-1]


def _send(cluster: Cluster, job: str, disturbance: Disturbance, stopped: list[psutil.Process]) -> None:
    """Send a signal to one process of the job; a rank that receives SIGSTOP stays suspended."""
    number = SIGNALS[disturbance.event]
    target = _process(cluster, job, disturbance.target, stopped)
    target.send_signal(number)
    if number == signal.SIGSTOP and target in stopped:
        stopped.remove(target)


def _process(cluster: Cluster, job: str, name: str, stopped: list[psutil.Process]) -> psutil.Process:
    if name.startswith("rank "):
        return stopped[int(name.removeprefix("rank "))]
    if name == "loader worker":
        return loader_workers(stopped[-1])[0]
    return srun(cluster, job) if name == "srun" else batch_shell(cluster, job)


def _requeue(cluster: Cluster, job: str, target: str) -> None:
    cluster.run("scontrol", "requeue", job)


def _warn(cluster: Cluster, job: str, target: str) -> None:
    """Send the signal of `--signal=USR2@120` as SLURM does, to all processes of a step."""
    cluster.run("scancel", "--signal=USR2", job)
    _wait_for_signal(cluster, job, signal.SIGUSR2)


def _time_limit(cluster: Cluster, job: str, target: str) -> None:
    """Shorten the time limit so that SLURM warns the job; restore it for the requeued job."""
    used = cluster.run("squeue", "-h", "-j", job, "-o", "%M").strip()  # [HH:]MM:SS
    minutes = sum(int(part) * 60**i for i, part in enumerate(reversed(used.split(":")))) // 60
    cluster.run("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes + 2}")
    _wait_for_signal(cluster, job, signal.SIGUSR2)
    cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=60")


def _preempt(cluster: Cluster, job: str, target: str) -> None:
    """A job of the higher partition takes both nodes; those in `main` have 30 seconds."""
    cluster.sbatch("--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=true")
    wait_until(lambda: cluster.job(job).get("PreemptTime", "None") != "None", "preempted", cluster, job)


def _preempt_with_user_signal(cluster: Cluster, job: str, target: str) -> None:
    """Preempt a job at a site where SLURM sends the job's own --signal."""
    with cluster.configured("SlurmctldParameters=preempt_send_user_signal"):
        _preempt(cluster, job, target)


def _node_lost(cluster: Cluster, job: str, node: str) -> None:
    """Lose a whole node, which returns when SLURM has noticed."""
    lost = on_node(cluster, job, node)
    with _without_slurmd(cluster, job, node):
        for process in lost:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def _slurmd_lost(cluster: Cluster, job: str, node: str) -> None:
    """Lose only slurmd: the node's ranks keep running while SLURM requeues the job."""
    with _without_slurmd(cluster, job, node):
        pass


@contextmanager
def _without_slurmd(cluster: Cluster, job: str, node: str) -> Iterator[None]:
    """Kill a node's slurmd, and restart it when SLURM has requeued the job."""
    cluster.kill_node(node)
    try:
        yield
        requeued = lambda: cluster.job(job)["Restarts"] == "1"  # noqa: E731
        wait_until(requeued, "requeued by SLURM", cluster, job, every=0.2)
    finally:
        cluster.start_node(node)


def _wait_for_signal(cluster: Cluster, job: str, number: signal.Signals) -> None:
    """Wait until the signal is pending for all ranks, which are suspended."""
    wait_until(
        lambda: all(is_pending(rank, number) for rank in ranks(cluster, job)),
        number.name,
        cluster,
        job,
        every=0.2,
    )


JOB_EVENTS: dict[str, Callable[[Cluster, str, str], None]] = {
    "scontrol requeue": _requeue,
    "warned (USR2)": _warn,
    "time limit": _time_limit,
    "preempted": _preempt,
    "preempted, user signal": _preempt_with_user_signal,
    "node lost": _node_lost,
    "slurmd lost": _slurmd_lost,
}
NODE_EVENTS = ("node lost", "slurmd lost")
