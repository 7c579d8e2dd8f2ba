"""One trial: submit the small run, disturb it, and compare the result with an undisturbed reference run."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cluster import ENDED, Cluster
from disturb import Disturbance, disturb
from processes import of_job
from run_losses import losses
from small_run import submit_enhanced, submit_py

from cxr_dist.files import sha256_of

_IGNORED_BY_WORKERS = ("SIGTERM", "SIGUSR2")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a disturbed run ended."""

    state: str
    """SLURM's JobState; COMPLETED is expected."""
    requeues: int
    requeues_expected: int
    same_losses: bool
    """Every step is logged once, with exactly the loss of the undisturbed run."""
    same_weights: bool
    """The last checkpoint's model.safetensors has the sha256 of the undisturbed run's."""
    left_behind: tuple[str, ...]
    """Names of processes that outlived the job."""
    seconds_to_recover: float | None
    """The time from the event to the first step logged after the restart, including the wait in the queue."""

    @property
    def equal(self) -> bool:
        """Whether all promises were kept."""
        return (
            self.state == "COMPLETED"
            and self.requeues == self.requeues_expected
            and self.same_losses
            and self.same_weights
            and not self.left_behind
        )


def requeues_expected(disturbance: Disturbance) -> int:
    """Return 1, or 0 for a signal that loader workers ignore because SLURM sends it to all processes of a step."""
    return int(not (disturbance.target == "loader worker" and disturbance.event in _IGNORED_BY_WORKERS))


def run_trial(
    cluster: Cluster, launcher: str, disturbance: Disturbance, shards: Path, folder: Path, reference: Path
) -> Outcome:
    """Submit the run with `launcher` (enhanced.sh or submit.py), disturb it, wait for its end, and compare."""
    out = folder / "run"
    submit: dict[str, Callable[[], str]] = {
        "enhanced.sh": lambda: submit_enhanced(cluster, shards, out),
        "submit.py": lambda: submit_py(cluster, folder, shards),
    }
    job = submit[launcher]()
    began = disturb(cluster, job, out, disturbance)
    recovered = _wait_for_new_step(cluster, job, out, requeues_expected(disturbance))
    ended = cluster.wait(job, seconds=300)
    finished = ended["JobState"] == "COMPLETED"
    return Outcome(
        state=ended["JobState"],
        requeues=int(ended["Restarts"]),
        requeues_expected=requeues_expected(disturbance),
        same_losses=finished and losses(out) == losses(reference),
        same_weights=finished and weights_sha256(out) == weights_sha256(reference),
        left_behind=_left_behind(cluster, job),
        seconds_to_recover=None if recovered is None else round(recovered - began, 2),
    )


def log_of(launcher: str, folder: Path) -> str:
    """Return everything that the job printed."""
    logs = [folder / "run.log"] if launcher == "enhanced.sh" else sorted(folder.glob("logs/*/*.out"))
    return "\n".join(log.read_text() for log in logs if log.exists())


def weights_sha256(run_dir: Path) -> str:
    """Return the sha256 of the newest checkpoint's parameters."""
    return sha256_of(max((run_dir / "checkpoints").glob("step-*")) / "model.safetensors")


def _wait_for_new_step(cluster: Cluster, job: str, out: Path, restarts: int, seconds: float = 400) -> float | None:
    """Return when the first step was logged after `restarts` restarts, or None if the job ended before."""
    deadline, seen = time.monotonic() + seconds, None
    while time.monotonic() < deadline:
        known = cluster.job(job)
        if int(known["Restarts"]) >= restarts and known["JobState"] == "RUNNING":
            now = _whole_lines(out)
            if seen is not None and now > seen:
                return time.monotonic()
            seen = now
        elif known["JobState"] in ENDED:
            return None
        time.sleep(0.25)
    return None


def _whole_lines(out: Path) -> int:
    """Count the logged lines. A run that resumes first removes the lines that it is going to log again."""
    metrics = out / "metrics.jsonl"
    return metrics.read_text().count("\n") if metrics.exists() else 0


def _left_behind(cluster: Cluster, job: str, seconds: float = 20) -> tuple[str, ...]:
    """Return the names of the job's processes that still run `seconds` after its end."""
    deadline = time.monotonic() + seconds
    while (left := of_job(cluster, job)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return tuple(process.name() for process in left)
