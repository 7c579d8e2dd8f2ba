"""Collect what a rank reports about itself: its process, its place, how long that has not changed, and its end."""

import sys
import threading
import time
from types import FrameType

from cxr_dist.distributed.watch import progress
from cxr_dist.distributed.watch.process import this_process
from cxr_dist.distributed.watch.verdict import Beat, Member, State


class VitalSigns:
    """What this rank reports about itself."""

    def __init__(self, rank: int, *, longest_tick_seconds: float) -> None:
        self.member = Member(rank=rank, state="alive")
        self._process, self._trains = this_process(), threading.get_ident()
        self._longest_tick, self._last_tick = longest_tick_seconds, time.monotonic()
        progress.join()
        self._place, self._idle_seconds = progress.where(), 0.0

    def tick(self) -> float:
        """Return the seconds since the last tick, at most the longest tick.

        A process that was stopped did not receive messages, so the time that it was stopped must not count.
        """
        now = time.monotonic()
        elapsed, self._last_tick = min(now - self._last_tick, self._longest_tick), now
        place = progress.where()
        self._idle_seconds = self._idle_seconds + elapsed if place == self._place else 0.0
        self._place = place
        if self.member.state != "alive":
            self.member.since_seconds += elapsed
        return elapsed

    def beat(self) -> Beat:
        """Return this rank's present beat."""
        place, _ = self._place
        self.member.beat = Beat(
            process=self._process,
            step=place.step,
            phase=place.phase,
            entered=place.entered,
            idle_seconds=self._idle_seconds,
            waits=is_in_collective(self._trains),
        )
        return self.member.beat

    def state_to_say(self, said: str) -> State | None:
        """Return the state in which this rank ended, if the others have not been told; else None."""
        state = self.member.state
        return state if state not in ("alive", said) else None


def is_in_collective(thread: int) -> bool:
    """Whether a thread is inside torch.distributed, or in a backward pass whose hooks sum gradients over ranks."""
    frame: FrameType | None = sys._current_frames().get(thread)
    while frame is not None:
        code = frame.f_code
        if "/torch/distributed/" in code.co_filename or code.co_name == "_engine_run_backward":
            return True
        frame = frame.f_back
    return False
