"""Exchange heartbeats over a TCP connection between rank 0 and each other rank, as JSON lines.

A closed connection means that a process died, and silence that it is stopped. Nothing blocks, so that a stopped rank
cannot delay the rank that watches it.
"""

import contextlib
import dataclasses
import json
import os
import secrets
import selectors
import socket
import time
import weakref
from collections.abc import Sequence
from typing import Any, ClassVar

from cxr_dist.distributed.watch.process import Process
from cxr_dist.distributed.watch.verdict import Beat, Member, State, Verdict

Message = dict[str, Any]
_LONGEST = 1 << 16  # bytes of a line
_SEE_OFF_SECONDS = 1.0


class Link:
    """One end of a connection, which sends and receives messages."""

    _all: ClassVar["weakref.WeakSet[Link]"] = weakref.WeakSet()

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self.socket, self.closed = end, False
        self._received, self._unsent = b"", b""
        Link._all.add(self)

    def send(self, message: Message) -> None:
        """Pass the message to the kernel; drop it if the other end has not read for a long time."""
        if len(self._unsent) < _LONGEST:
            self._unsent += json.dumps(message).encode() + b"\n"
        try:
            self._unsent = self._unsent[self.socket.send(self._unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            self.closed = True

    def receive(self) -> list[Message]:
        """Return the messages received so far; sets `closed` if the other end is closed."""
        try:
            while data := self.socket.recv(_LONGEST):
                self._received += data
            self.closed = True
        except BlockingIOError:
            pass
        except OSError:
            self.closed = True
        *lines, self._received = self._received.split(b"\n")
        if len(self._received) > _LONGEST:
            self.closed, self._received = True, b""
        return [json.loads(line) for line in lines]

    @classmethod
    def close_copies(cls) -> None:
        """Close the parent's connections in a forked process; otherwise they would stay open when the parent dies."""
        for link in list(cls._all):
            link.socket.close()


os.register_at_fork(after_in_child=Link.close_copies)


class Post:
    """A rank's connections and what is known of the ranks at their other ends; none, on a single rank."""

    def __init__(self, ranks: Sequence[int] = ()) -> None:
        self.members = [Member(rank=rank) for rank in ranks]
        self.verdict: Verdict | None = None

    def poll(self, seconds: float) -> None:
        """Process the messages that arrive within this time."""
        time.sleep(seconds)

    def send(self, message: Message) -> None:
        """Send a message to all members."""

    @property
    def is_connected(self) -> bool:
        """Whether any rank is still at the other end of a connection."""
        return False

    def see_off(self) -> None:
        """Wait until the others have ended, at most a second.

        A rank that failed still waits for the verdict, which would be lost if this end were closed with beats unread.
        """
        deadline = time.monotonic() + _SEE_OFF_SECONDS
        while time.monotonic() < deadline and self.is_connected:
            self.poll(_SEE_OFF_SECONDS / 20)

    def close(self) -> None:
        """Close all connections."""


class Hub(Post):
    """The connections of rank 0 to all other ranks."""

    def __init__(self, world_size: int) -> None:
        super().__init__(range(1, world_size))
        self.secret = secrets.token_hex(16)
        self._links: dict[Link, Member | None] = {}
        self._listener = Link(_listener())
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener.socket, selectors.EVENT_READ, None)

    @property
    def port(self) -> int:
        """The TCP port on which rank 0 listens."""
        return int(self._listener.socket.getsockname()[1])

    @property
    def is_connected(self) -> bool:
        """Whether any rank has not yet closed its connection."""
        return any(member is not None for member in self._links.values())

    def poll(self, seconds: float) -> None:
        """Accept connections and process the messages that arrive within this time."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                if key.data is None:
                    self._accept()
                else:
                    self._hear(key.data)

    def send(self, message: Message) -> None:
        """Send a message to every rank that has joined."""
        for link, member in self._links.items():
            if member is not None:
                link.send(message)

    def close(self) -> None:
        """Close all connections."""
        for link in (*self._links, self._listener):
            link.socket.close()
        self._selector.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            link = Link(self._listener.socket.accept()[0])
            self._links[link] = None
            self._selector.register(link.socket, selectors.EVENT_READ, link)

    def _hear(self, link: Link) -> None:
        try:
            for message in link.receive():
                self._take(link, message)
        except (ValueError, LookupError, TypeError, AttributeError):  # not a message of this job
            link.closed = link.closed or self._links[link] is None
        if link.closed:
            member = self._links.pop(link)
            self._selector.unregister(link.socket)
            link.socket.close()
            if member is not None and member.state == "alive":
                member.state = "gone"

    def _take(self, link: Link, message: Message) -> None:
        member = self._links[link]
        if member is None:
            member = self.members[message["rank"] - 1]
            if member.state != "absent" or not secrets.compare_digest(message["secret"], self.secret):
                raise ValueError("not a rank of this job")
            self._links[link] = member
        take(member, message)


class Spoke(Post):
    """The connection of another rank to rank 0, its only member."""

    def __init__(self, end: socket.socket, rank: int, secret: str) -> None:
        super().__init__([0])
        self._link, self._hello = Link(end), {"rank": rank, "secret": secret}

    @property
    def is_connected(self) -> bool:
        """Whether rank 0 has not yet closed its connection."""
        return not self._link.closed

    def poll(self, seconds: float) -> None:
        """Process the messages that arrive within this time."""
        if self._link.closed:
            return time.sleep(seconds)
        with selectors.DefaultSelector() as selector:
            selector.register(self._link.socket, selectors.EVENT_READ)
            selector.select(seconds)
        for message in self._link.receive():
            take(self.members[0], message)
            if "verdict" in message:
                self.verdict = verdict_from(message["verdict"])
        if self._link.closed and self.members[0].state not in ("left", "refused"):
            self.members[0].state = "gone"
        return None

    def send(self, message: Message) -> None:
        """Send a message to rank 0."""
        self._link.send(self._hello | message)
        self._hello = {}

    def close(self) -> None:
        """Close the connection."""
        self._link.socket.close()


def take(member: Member, message: Message) -> None:
    """Record a rank's message: a beat, or the state in which it ended."""
    if beat := message.get("beat"):
        member.beat = Beat(**beat | {"process": Process(**beat["process"])})
        if member.state in ("absent", "alive"):
            member.state, member.since_seconds = "alive", 0.0
    if state := message.get("state"):
        ended: State = state
        member.state, member.note, member.since_seconds = ended, str(message.get("note", "")), 0.0


def verdict_from(plain: Message) -> Verdict:
    """Return the verdict that `to_message` converted to JSON."""
    silent = tuple(Process(**process) for process in plain["silent"])
    ranks = {name: tuple(plain[name]) for name in ("culprits", "quiet")}
    return Verdict(**plain | ranks | {"silent": silent})


def to_message(thing: Beat | Verdict) -> Message:
    """Convert to values that JSON can represent."""
    return dataclasses.asdict(thing)


def _listener() -> socket.socket:
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):
            return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
    return socket.create_server(("", 0), backlog=1024)
