"""Being told to stop: a signal sets a flag, the step boundary acts on it, all ranks save, rank 0 requeues.

SLURM's `--signal=USR2@N` reaches every process of a step, loader workers included, so the handler answers in
the training process alone. USR2 says that the time limit is near. TERM comes from `scancel`, which must stay
cancelled, and from SLURM's preemption, which requeues a job only if it is still there when its grace time is
over: one that saves and leaves before would count as failed. So rank 0 asks SLURM which of them it is.
Torch is imported late: a signal that comes in those seconds must find its handler.
"""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

from cxr_dist.distributed.world import World

if TYPE_CHECKING:
    import torch

_SCONTROL_SECONDS = 60


class StopRequest:
    """Whether this rank was asked to stop, by a signal or by the clock."""

    def __init__(self, max_minutes: float) -> None:
        self._process = os.getpid()
        self._deadline = time.monotonic() + 60 * max_minutes if max_minutes else float("inf")
        self._received: set[int] = set()
        for name in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            signal.signal(name, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return
        if self._received and number == signal.SIGINT:
            raise KeyboardInterrupt  # asked twice at the keyboard: leave at once
        self._received.add(number)

    @property
    def requested(self) -> bool:
        """True from the signal or the deadline on."""
        return bool(self._received) or time.monotonic() >= self._deadline

    def received(self, number: signal.Signals) -> bool:
        """True where this signal came, whatever came after it."""
        return number in self._received


def requeue_if_due(
    stop: StopRequest, world: World, device: "torch.device", say: Callable[[str], None]
) -> None:
    """Put a job that saved back into the queue if SLURM wants its place, and say so (all ranks).

    The signal need not have reached rank 0 itself yet. No rank leaves before rank 0 has requeued: with
    `srun --kill-on-bad-exit` the first one to leave takes the others with it.
    """
    import torch

    from cxr_dist.distributed.reduce import sum_over_ranks, wait_for_all

    warned, terminated = (stop.received(number) for number in (signal.SIGUSR2, signal.SIGTERM))
    flags = sum_over_ranks(torch.tensor([warned, terminated], dtype=torch.int64, device=device))
    if world.is_main and flags.any() and (job := slurm_job()) is not None:
        say(_requeue(job, warned=bool(flags[0])))
    wait_for_all()


def slurm_job() -> str | None:
    """The id under which SLURM knows this job, ARRAY_TASK for a task of an array; None outside SLURM."""
    if task := os.environ.get("SLURM_ARRAY_TASK_ID"):
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{task}"
    return os.environ.get("SLURM_JOB_ID")


def wants_requeue(shown: str, *, warned: bool) -> bool:
    """Whether a job is to be requeued, from what `scontrol show job` says.

    A cancelled job is no longer RUNNING (a requeue would bring it back); a preempted one has a PreemptTime.
    """
    facts = dict(re.findall(r"(\w+)=(\S*)", shown))
    preempted = facts.get("PreemptTime", "None") != "None"
    return facts.get("JobState") == "RUNNING" and (warned or preempted)


def _requeue(job: str, *, warned: bool) -> str:
    """Requeue where that is due; a line for the person who watches, also where SLURM refuses."""
    try:
        if not wants_requeue(_scontrol("--oneliner", "show", "job", job), warned=warned):
            return f"saved; job {job} is left to SLURM"
        _scontrol("requeue", job)
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or type(error).__name__
        return f"saved, but job {job} could not be requeued ({reason.strip()}): submit it again to resume"
    return f"saved; requeued job {job}"


def _scontrol(*arguments: str) -> str:
    command = ["scontrol", *arguments]
    done = subprocess.run(command, check=True, timeout=_SCONTROL_SECONDS, capture_output=True, text=True)
    return done.stdout
