"""Exchange heartbeats over a TCP connection between rank 0 and each other rank, as JSON lines.

A closed connection means that a process died, and silence that it is stopped. Rank 0 writes its port and a secret to
the rendezvous store. Any process that can read the store can join, so use a trusted network only. Nothing blocks, so
that a stopped rank cannot delay the rank that watches it.
"""

import contextlib
import dataclasses
import datetime
import json
import os
import secrets
import selectors
import socket
import time
import weakref
from collections.abc import Sequence
from typing import Any, ClassVar

from torch.distributed import DistError, Store, TCPStore  # type: ignore[attr-defined]

from cxr_dist.distributed.watch.process import Process
from cxr_dist.distributed.watch.verdict import Beat, Member, State, Verdict
from cxr_dist.distributed.world import World, rendezvous

Message = dict[str, Any]
_LONGEST = 1 << 16  # bytes of a line
_ANSWER_SECONDS = 5
_STORE_SECONDS = 30  # if a busy machine takes longer, the store's client prints long errors


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


class PortTaken(Exception):
    """Rank 0 cannot open the rendezvous store; a later start of the job may succeed."""


class Meeting:
    """Connects the ranks to rank 0 before there is a process group, through the rendezvous store."""

    def __init__(self, world: World) -> None:
        os.environ.update(rendezvous(world))
        environment = os.environ
        self.world, self.host, self._port = world, environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
        # torchrun opens the store in its own process and uses it again for a restarted group.
        self._kept_by_launcher = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        # The key names job and start, because another job's store may be at this port.
        start = [environment.get("TORCHELASTIC_RUN_ID") or environment.get("SLURM_JOB_ID", "")]
        start += [environment.get(f"{launcher}_RESTART_COUNT", "0") for launcher in ("TORCHELASTIC", "SLURM")]
        self._key = "/".join(["watchdog", *start])
        self._store: Store | None = None

    def open(self) -> Hub:
        """Listen on rank 0 and write the port to the store; raises PortTaken if the store cannot be opened."""
        hub = Hub(self.world.world_size)
        try:
            self._store = self._new_store(is_master=not self._kept_by_launcher)
        except DistError:
            hub.close()
            raise PortTaken(
                f"rank 0 cannot open the rendezvous at {self.host}, port {self._port}: the port is taken, or the "
                "address belongs to another host; set MASTER_ADDR and MASTER_PORT"
            ) from None
        self._store.set(self._key, f"{hub.port} {hub.secret}")
        return hub

    def try_to_come(self) -> Spoke | None:
        """Connect to rank 0; return None if it does not listen yet."""
        try:
            if self._store is None:
                # The store's own client would print long errors if nobody listened.
                socket.create_connection((self.host, self._port), _ANSWER_SECONDS).close()
                self._store = self._new_store(is_master=False)
            if not self._store.check([self._key]):
                return None
            port, secret = self._store.get(self._key).decode().split()
            end = socket.create_connection((self.host, int(port)), _ANSWER_SECONDS)
        except (OSError, DistError):
            return None
        return Spoke(end, self.world.rank, secret)

    def _new_store(self, *, is_master: bool) -> Store:
        return TCPStore(
            self.host,
            self._port,
            is_master=is_master,
            timeout=datetime.timedelta(seconds=_STORE_SECONDS),
            wait_for_workers=False,
            multi_tenant=True,  # the process group opens its store at the same port in the same process
        )


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
    return Verdict(**plain | {"culprits": tuple(plain["culprits"]), "silent": silent})


def to_message(thing: Beat | Verdict) -> Message:
    """Convert to values that JSON can represent."""
    return dataclasses.asdict(thing)


def _listener() -> socket.socket:
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):
            return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
    return socket.create_server(("", 0), backlog=1024)
