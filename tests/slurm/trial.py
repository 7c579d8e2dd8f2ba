"""One trial: submit the small run, disturb it, and hold what came out beside the run that was left alone.

In: a cluster, shards and a finished reference run. Out: an `Outcome` with what a disturbed run promises.
"""

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
    """SLURM's word; COMPLETED."""
    requeues: int
    requeues_expected: int
    same_losses: bool
    """Every step's loss, once each, is the undisturbed run's to the last digit."""
    same_weights: bool
    """The last checkpoint's model.safetensors has the undisturbed one's sha256."""
    left_behind: tuple[str, ...]
    """Names of processes that outlived the job."""
    seconds_to_recover: float | None
    """From the event to the first step that was logged after it, the wait in the queue included."""

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
    """One; none where loader workers ignore the signal, because SLURM sends it to every process of a step."""
    return int(not (disturbance.target == "loader worker" and disturbance.event in _IGNORED_BY_WORKERS))


def run_trial(
    cluster: Cluster, launcher: str, disturbance: Disturbance, shards: Path, folder: Path, reference: Path
) -> Outcome:
    """Submit with `launcher` (enhanced.sh or submit.py), disturb, wait for the end, and compare."""
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
    """All that the job printed."""
    logs = [folder / "run.log"] if launcher == "enhanced.sh" else sorted(folder.glob("logs/*/*.out"))
    return "\n".join(log.read_text() for log in logs if log.exists())


def weights_sha256(run_dir: Path) -> str:
    """Of the newest checkpoint's parameters."""
    return sha256_of(max((run_dir / "checkpoints").glob("step-*")) / "model.safetensors")


def _wait_for_new_step(
    cluster: Cluster, job: str, out: Path, restarts: int, seconds: float = 400
) -> float | None:
    """When the first step was logged after `restarts` restarts; None where the job ends before."""
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
    """Logged lines; a run that resumes first takes those away that it is going to log again."""
    metrics = out / "metrics.jsonl"
    return metrics.read_text().count("\n") if metrics.exists() else 0


def _left_behind(cluster: Cluster, job: str, seconds: float = 20) -> tuple[str, ...]:
    """What still runs of the job so long after its end."""
    deadline = time.monotonic() + seconds
    while (left := of_job(cluster, job)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return tuple(process.name() for process in left)
