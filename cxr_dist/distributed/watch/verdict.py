"""Decide from what is known of all ranks whether the job must end, and which ranks are to blame; a pure function.

A rank is lost if it died, never joined or no longer sends beats. A job is stuck if no rank makes progress. The ranks to
blame are then those for which the others wait: they are outside a collective, behind, or at another place than most.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from cxr_dist.distributed.watch.process import Process
from cxr_dist.errors import EXIT_REFUSED

EXIT_ENDED = 70
"""Exit status of a rank that the watchdog ended (EX_SOFTWARE)."""
_SETTLE_SECONDS = 1.0  # wait before judging an error: it may follow from the death of another rank
_MOST_NAMED = 8

State = Literal["absent", "alive", "gone", "failed", "refused", "left"]


@dataclass(frozen=True, kw_only=True)
class Beat:
    """What a rank periodically reports about itself."""

    process: Process
    step: int
    phase: str
    entered: int
    """Number of phases entered; the rank with the largest number is furthest ahead."""
    idle_seconds: float
    """Seconds since the place changed or a piece of the phase was done."""
    waits: bool
    """Whether the training thread is inside a collective."""


@dataclass(kw_only=True)
class Member:
    """What is known of a rank."""

    rank: int
    state: State = "absent"
    """`failed`: ended by an exception; `refused`: ended by a UserError; `left`: ended normally; `gone`: died."""
    beat: Beat | None = None
    since_seconds: float = 0.0
    """Seconds since the last message, or since the watchdog started."""
    note: str = ""
    """Type of the exception with which the rank failed, or a digest of the message with which it was refused."""

    @property
    def is_settled(self) -> bool:
        """Whether no further message is expected from the rank, and it needs no verdict."""
        if self.state in ("failed", "refused"):
            return self.since_seconds > 2 * _SETTLE_SECONDS
        return self.state not in ("absent", "alive")

    @property
    def name(self) -> str:
        """Rank, host and process."""
        if self.beat is None:
            return f"rank {self.rank}"
        return f"rank {self.rank} on {self.beat.process.host} (pid {self.beat.process.pid})"

    @property
    def place(self) -> str:
        """Step and phase."""
        return f"step {self.beat.step}, {self.beat.phase}" if self.beat else "the start"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Times after which the job is ended."""

    timeout_seconds: float
    """Longest time without progress of any rank, and longest wait for a rank to join."""
    silence_seconds: float
    """Longest time without a beat of a rank."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Why the job ends."""

    culprits: tuple[int, ...]
    """The ranks to blame; empty if all ranks wait for one another."""
    text: str
    """One line that names them."""
    status: int = EXIT_ENDED
    """Exit status of all ranks."""
    silent: tuple[Process, ...] = ()
    """Processes that have to be killed, because they do not respond."""
    quiet: tuple[int, ...] = ()
    """Ranks to blame that need not print their error, because a lower rank on the same host prints the same words."""


def judge(members: Sequence[Member], limits: Limits) -> Verdict | None:
    """Return why the job must end, given all ranks; None if it can go on."""
    return lost(members, limits) or _broken(members) or _stuck(members, limits)


def lost(members: Sequence[Member], limits: Limits) -> Verdict | None:
    """Blame ranks that died, never joined or are silent."""
    if gone := [m for m in members if m.state == "gone"]:
        return _verdict(gone, lambda m: f"{m.name} died, last heard at {m.place}")
    late = [m for m in members if m.state == "absent" and m.since_seconds >= limits.timeout_seconds]
    if late:
        return _verdict(late, lambda m: f"{m.name} has not joined within {m.since_seconds:.0f} s")
    silent = [m for m in members if m.state == "alive" and m.since_seconds >= limits.silence_seconds]
    if not silent:
        return None
    return _verdict(
        silent,
        lambda m: f"{m.name} stopped answering {m.since_seconds:.0f} s ago at {m.place}",
        silent=tuple(m.beat.process for m in silent if m.beat),
    )


def _broken(members: Sequence[Member]) -> Verdict | None:
    """Blame ranks that ended with an error, or that left early and so caused errors of others."""
    broken = [m for m in members if m.state in ("failed", "refused")]
    if not broken or max(m.since_seconds for m in broken) < _SETTLE_SECONDS:
        return None
    # All ranks exit with the status of the UserError, so that nothing restarts the job.
    if refused := [m for m in broken if m.state == "refused"]:
        words = "with an error, which it prints itself"
        verdict = _verdict(refused, lambda m: f"{m.name} ended at {m.place} {words}", status=EXIT_REFUSED)
        return replace(verdict, quiet=_repeating(refused))
    furthest = max(m.beat.entered for m in broken if m.beat) if any(m.beat for m in broken) else 0
    if left := [m for m in members if m.state == "left" and m.beat and m.beat.entered < furthest]:
        return _verdict(left, _left_early)
    return _verdict(broken, lambda m: f"{m.name} failed at {m.place} ({m.note})")


def _repeating(refused: Sequence[Member]) -> tuple[int, ...]:
    """Return the ranks whose message is that of a lower rank on the same host."""
    first: dict[tuple[str, str], int] = {}
    for m in sorted(refused, key=lambda m: m.rank):
        if m.beat and m.note:
            first.setdefault((m.beat.process.host, m.note), m.rank)
    return tuple(m.rank for m in refused if m.beat and m.note and first[m.beat.process.host, m.note] < m.rank)


def _stuck(members: Sequence[Member], limits: Limits) -> Verdict | None:
    """Blame the ranks for which the others wait, if no rank makes progress."""
    beats = {m.rank: m.beat for m in members if m.state == "alive" and m.beat}
    alive = [m for m in members if m.rank in beats]
    idle = min((beat.idle_seconds for beat in beats.values()), default=-1.0)
    if idle < limits.timeout_seconds or any(m.state == "absent" for m in members):
        return None
    if left := [m for m in members if m.state == "left"]:
        return _verdict(left, _left_early)
    busy = [m for m in alive if not beats[m.rank].waits]
    guilty = busy if 0 < len(busy) < len(alive) else _apart(alive, beats)
    if len(guilty) == len(alive):
        return Verdict(culprits=(), text=f"no rank has made progress for {idle:.0f} s: all are at {alive[0].place}")
    others = Counter(m.place for m in alive if m not in guilty).most_common(1)[0][0]
    return _verdict(
        guilty,
        lambda m: f"{m.name} has made no progress for {beats[m.rank].idle_seconds:.0f} s at {m.place}",
        f"; the others are at {others}",
    )


def _apart(alive: list[Member], beats: dict[int, Beat]) -> list[Member]:
    """Return the ranks at the rarest place (the earliest of equals) if all are in collectives, else those behind."""
    places = {rank: (beat.step, beat.entered, beat.phase) for rank, beat in beats.items()}
    sizes = Counter(places.values())
    fewest = min(sizes, key=lambda place: (sizes[place], place))
    chosen = fewest if all(beat.waits for beat in beats.values()) else min(sizes)
    return [m for m in alive if places[m.rank] == chosen]


def _left_early(member: Member) -> str:
    return f"{member.name} left at {member.place}, while others continue"


def _verdict(
    culprits: Sequence[Member],
    words: Callable[[Member], str],
    more: str = "",
    *,
    status: int = EXIT_ENDED,
    silent: tuple[Process, ...] = (),
) -> Verdict:
    named = "; ".join(words(m) for m in culprits[:_MOST_NAMED])
    unnamed = f"; and {len(culprits) - _MOST_NAMED} more" if len(culprits) > _MOST_NAMED else ""
    ranks = tuple(m.rank for m in culprits)
    return Verdict(culprits=ranks, text=f"{named}{unnamed}{more}", status=status, silent=silent)
