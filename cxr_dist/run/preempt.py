"""Being told to stop: a signal sets a flag, the step boundary acts on it, all ranks save, rank 0 requeues.

SLURM's `--signal=USR2@N` reaches every process of a step, loader workers included, so the handler answers in
the training process alone. Which signal it was does not tell what SLURM wants: TERM comes from `scancel`, which must
stay cancelled, and from a preemption, which requeues a job only if it is still there when its grace time is over.
So rank 0 asks SLURM (requeue.py). Torch is imported late: a signal that comes in those seconds must find its handler.
"""

import os
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

from cxr_dist.distributed.world import World
from cxr_dist.run.requeue import forbid_requeue, requeue
from cxr_dist.run.slurm_job import slurm_job

if TYPE_CHECKING:
    import torch


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

    The signal need not have reached rank 0 itself. A run that ends by the clock or the keyboard has ended for good.
    No rank leaves before rank 0 has requeued: with `srun --kill-on-bad-exit` the first one to leave takes the others
    with it.
    """
    import torch

    from cxr_dist.distributed.reduce import sum_over_ranks, wait_for_all

    told = stop.received(signal.SIGUSR2) or stop.received(signal.SIGTERM)
    ranks_told = sum_over_ranks(torch.tensor(int(told), dtype=torch.int64, device=device))
    if world.is_main and slurm_job() is not None:
        if ranks_told:
            say(f"saved; {requeue()}")
        else:
            forbid_requeue()
    wait_for_all()
