"""Being told to stop: a signal sets a flag, the step boundary acts on it, and rank 0 requeues.

SLURM's `--signal=USR2@N` reaches every process of a step, loader workers included, so the handler answers in
the training process alone. TERM means "save and leave" (scancel, SLURM's own preemption, which requeues by
itself); USR2 means "save and put this job back into the queue" (the time limit is near).
"""

import os
import signal
import subprocess
import time
from types import FrameType


class StopRequest:
    """Whether this rank was asked to stop, by a signal or by the clock."""

    def __init__(self, max_minutes: float) -> None:
        self._process = os.getpid()
        self._deadline = time.monotonic() + 60 * max_minutes if max_minutes else float("inf")
        self._received: int | None = None
        for name in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
            signal.signal(name, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return
        if self._received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt  # asked twice at the keyboard: leave at once
        self._received = number

    @property
    def requested(self) -> bool:
        """True from the signal or the deadline on."""
        return self._received is not None or time.monotonic() >= self._deadline

    @property
    def wants_requeue(self) -> bool:
        """True where SLURM warned of the time limit."""
        return self._received == signal.SIGUSR2


def requeue_this_job() -> bool:
    """Put the running SLURM job back into the queue (rank 0, after all ranks saved); False outside SLURM."""
    job = os.environ.get("SLURM_ARRAY_JOB_ID", os.environ.get("SLURM_JOB_ID"))
    if job is None:
        return False
    if task := os.environ.get("SLURM_ARRAY_TASK_ID"):
        job = f"{job}_{task}"
    subprocess.run(["scontrol", "requeue", job], check=True, timeout=60)
    return True
