"""The watchdog: a thread on each rank that sends beats and watches the other ranks.

It ends the job (status 70) if a rank died, is silent, never joined, left early or failed, or if no rank makes progress
within the timeout. It asks a rank whose launcher has ended to save and exit. The training thread only records its place
(progress.py). Time is counted in the thread's own ticks, so that a rank that was stopped and continues blames nobody.
"""

import hashlib
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from cxr_dist.distributed.watch import last_words
from cxr_dist.distributed.watch.heartbeat import Post, to_message
from cxr_dist.distributed.watch.launcher import LauncherWatch
from cxr_dist.distributed.watch.meeting import Meeting, PortTaken
from cxr_dist.distributed.watch.verdict import Limits, Member, State, Verdict, judge, lost
from cxr_dist.distributed.watch.vital_signs import VitalSigns
from cxr_dist.distributed.world import World
from cxr_dist.errors import EXIT_REFUSED, UserError, refusal

_SILENCE_SECONDS = 60.0
_POLL_SECONDS = 0.25
_FAREWELL_SECONDS = 10.0  # to tell the others how this rank ended


@contextmanager
def watching(world: World, timeout_minutes: float) -> Iterator[None]:
    """Run the watchdog during the block, which begins before the ranks join a process group (all ranks).

    Args:
        world: The place of this rank.
        timeout_minutes: Longest time without progress of any rank. A rank that is silent for a minute, or for the
            timeout if that is shorter, also ends the job.

    The block is entered once rank 0 knows of this rank. Raises UserError if the environment does not tell how to find
    rank 0.
    """
    seconds = 60 * timeout_minutes
    limits = Limits(timeout_seconds=seconds, silence_seconds=min(seconds, _SILENCE_SECONDS))
    watchdog = Watchdog(world, limits)
    try:
        yield
    except BaseException as error:
        if refusal(error):
            watchdog.leave("refused", error)
            if isinstance(error, UserError):
                error.known_to_all, error.said_by_another = True, watchdog.is_quiet
        elif isinstance(error, KeyboardInterrupt):  # or SIGTERM; all ranks get it, or the others fail by themselves
            watchdog.leave("left")
        else:
            watchdog.leave("failed", error)
        raise
    watchdog.leave("left")


class Watchdog:
    """Watches from its creation until `leave`: all ranks, or the only one, which may hang as well."""

    def __init__(self, world: World, limits: Limits) -> None:
        self.world, self.limits = world, limits
        # Rank 0, which also trains, receives at most 64 beats a second.
        self._beat_seconds = min(max(_POLL_SECONDS, world.world_size / 64), limits.silence_seconds / 3)
        self._me = VitalSigns(world.rank, longest_tick_seconds=1.0 + limits.silence_seconds / 10)
        self._launcher, self._failure = LauncherWatch(world.rank), ""
        self.is_quiet = False
        """Whether another rank of this host prints the error with which this rank left."""
        self._has_joined = threading.Event()
        meeting = Meeting(world) if world.world_size > 1 else None
        self._thread = threading.Thread(target=self._run, args=(meeting,), daemon=True, name="watchdog")
        self._thread.start()
        self._has_joined.wait()

    def leave(self, state: State, error: BaseException | None = None) -> None:
        """Tell the others how this rank ended, and stop watching.

        On rank 0 this returns when all ranks have ended. On a rank that failed or refused it waits until it is known
        whether another rank was the cause; in that case the process is ended.
        """
        if state == "failed" and error is not None:
            self._failure = "".join(traceback.format_exception(error))
            self._me.member.note = type(error).__name__
        elif error is not None:
            self._me.member.note = hashlib.sha256(str(refusal(error)).encode()).hexdigest()[:16]
        self._me.member.since_seconds = 0.0
        self._me.member.state = state
        self._thread.join()

    def _run(self, meeting: Meeting | None) -> None:
        post: Post
        try:
            post = self._joined(meeting) if meeting else Post()
            self._has_joined.set()
            self._watch(post)
            if self.world.is_main or self._me.member.state != "refused":
                post.close()
            self._post = post  # which stays open while this rank prints why: rank 0 waits before it ends
        except PortTaken as taken:
            self._end(Verdict(culprits=(self.world.rank,), text=str(taken)))
        except BaseException:  # without a watchdog the job could hang forever
            self._failure = traceback.format_exc()
            text = f"rank {self.world.rank}'s own watchdog failed"
            self._end(Verdict(culprits=(self.world.rank,), text=text))

    def _joined(self, meeting: Meeting) -> Post:
        """Wait for rank 0 and return the connections to the other ranks."""
        if self.world.is_main:
            return meeting.open()
        main = Member(rank=0)
        while (post := meeting.try_to_come()) is None:
            time.sleep(_POLL_SECONDS)
            self._tick([main])
            if verdict := lost([main], self.limits):
                self._end(verdict)
        post.send({"beat": to_message(self._me.beat())})
        return post

    def _watch(self, post: Post) -> None:
        """Send beats and watch until all ranks have ended (rank 0), or this rank has."""
        since_beat, said = float("inf"), ""
        while True:
            post.poll(_POLL_SECONDS)
            since_beat += self._tick(post.members)
            if state := self._me.state_to_say(said):
                post.send({"beat": to_message(self._me.beat()), "state": state, "note": self._me.member.note})
                said, since_beat = state, 0.0
            elif since_beat >= self._beat_seconds:
                post.send({"beat": to_message(self._me.beat())})
                since_beat = 0.0
            if verdict := self._verdict(post):
                return self._carry_out(verdict, post)
            if self._is_over(post, said):
                return None

    def _tick(self, others: list[Member]) -> float:
        """Advance the times of all ranks and return the seconds since the last tick."""
        elapsed = self._me.tick()
        for member in others:
            member.since_seconds += elapsed
        if verdict := self._launcher.after(elapsed):
            self._end(verdict)
        return elapsed

    def _verdict(self, post: Post) -> Verdict | None:
        """Judge all ranks on rank 0; on the others, return its verdict or judge rank 0 itself."""
        if not self.world.is_main:
            return post.verdict or lost(post.members, self.limits)
        self._me.beat()
        return judge([self._me.member, *post.members], self.limits)

    def _is_over(self, post: Post, said: str) -> bool:
        """Whether this rank has ended and told so, and its watchdog is no longer needed."""
        if not said:
            return False
        waited_long = self._me.member.since_seconds > _FAREWELL_SECONDS
        if not self.world.is_main:
            return said == "left" or waited_long or (said == "refused" and not post.is_connected)
        return all(m.is_settled for m in post.members) or (said != "left" and waited_long)

    def _carry_out(self, verdict: Verdict, post: Post) -> None:
        """Tell the others (rank 0) and end the process; return if this rank ends with an error of its own.

        A rank that refused says why also if it then finds that rank 0 has died.
        """
        if self.world.is_main:
            post.send({"verdict": to_message(verdict)})
        me = self._me.member
        if me.state in ("failed", "refused") and me.rank in verdict.culprits:
            self.is_quiet = me.rank in verdict.quiet
            if self.world.is_main or me.state == "failed":
                post.see_off()
        elif self.world.is_main or me.state != "refused" or verdict.status == EXIT_REFUSED:
            self._end(verdict, post.see_off)

    def _end(self, verdict: Verdict, farewell: Callable[[], None] = lambda: None) -> NoReturn:
        last_words.end(self.world.rank, verdict, self._failure, farewell)
