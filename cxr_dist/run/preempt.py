"""Stopping on request: a signal sets a flag, all ranks save at the next step boundary, and rank 0 requeues the job.

SLURM's `--signal=USR2@N` is delivered to every process of a job step, including the loader's workers, so the handler
acts only in the training process. The signal alone does not say whether to requeue: SIGTERM comes from `scancel`, after
which the job must stay cancelled, and from a preemption, where SLURM itself requeues only a job that outlives its grace
time. Rank 0 therefore asks SLURM (requeue.py). Torch is imported late, so that a signal during its import is handled.
"""

import os
import signal
import time
from collections.abc import Callable
from types import FrameType

from cxr_dist.distributed.world import World
from cxr_dist.run.interrupt import Interrupt
from cxr_dist.run.requeue import forbid_requeue, requeue
from cxr_dist.run.slurm_job import slurm_job

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


class StopRequest:
    """Whether this rank was asked to stop, by a signal or because `max_minutes` have passed (0: no time limit)."""

    def __init__(self, max_minutes: float) -> None:
        self._process = os.getpid()
        self._deadline = time.monotonic() + 60 * max_minutes if max_minutes else float("inf")
        self._received: set[int] = set()
        self._interrupt = Interrupt()
        for name in STOP_SIGNALS:
            signal.signal(name, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return
        if self._received and number == signal.SIGINT:
            self._interrupt(number, frame)  # the second Ctrl-C: stop immediately
        self._received.add(number)

    @property
    def requested(self) -> bool:
        """Whether a signal was received or the time limit has passed."""
        return bool(self._received) or time.monotonic() >= self._deadline

    def received(self, number: signal.Signals) -> bool:
        """Whether this signal was received, regardless of later ones."""
        return number in self._received

    @property
    def only_interrupted(self) -> bool:
        """Whether Ctrl-C is why this rank was asked to stop, and no other signal."""
        return self._received == {signal.SIGINT}


def requeue_if_due(stop: StopRequest, world: World, say: Callable[[str], None]) -> None:
    """Requeue the job after it has saved, if SLURM is about to end it, and report that (all ranks).

    The signal may have reached any rank. A run that stops at its time limit or on Ctrl-C is not requeued. All ranks
    wait until rank 0 has requeued the job, because with `srun --kill-on-bad-exit` the first rank that exits ends the
    others.
    """
    import torch

    from cxr_dist.distributed.reduce import sum_over_ranks, wait_for_all

    told = stop.received(signal.SIGUSR2) or stop.received(signal.SIGTERM)
    ranks_told = sum_over_ranks(torch.tensor(int(told), dtype=torch.int64, device=world.device))
    if world.is_main and slurm_job() is not None:
        if ranks_told:
            say(f"saved; {requeue()}")
        else:
            forbid_requeue()
    wait_for_all()
