"""Beats between ranks, over TCP connections of their own: every rank to rank 0, which answers with its own.

A connection tells of a death at once, and silence of everything else. Rank 0 listens on a free port and leaves it,
with a secret, in the rendezvous store; as with the store, whoever reads it can join: use a trusted network only.
JSON lines; nothing blocks, so that a stopped rank never holds up the one that watches it.
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
from typing import Any, ClassVar, Protocol

from torch.distributed import DistError, Store, TCPStore  # type: ignore[attr-defined]

from cxr_dist.distributed.watch.process import Process
from cxr_dist.distributed.watch.verdict import Beat, Member, State, Verdict
from cxr_dist.distributed.world import World, rendezvous

Message = dict[str, Any]
_LONGEST = 1 << 16  # bytes of a line
_ANSWER_SECONDS = 5
_STORE_SECONDS = 30  # its client prints pages where a busy machine is slower


class Link:
    """One end of a connection; messages in and out."""

    _all: ClassVar["weakref.WeakSet[Link]"] = weakref.WeakSet()

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self.socket, self.closed = end, False
        self._received, self._unsent = b"", b""
        Link._all.add(self)

    def send(self, message: Message) -> None:
        """Hand over to the kernel; dropped where the other end has not read for long."""
        if len(self._unsent) < _LONGEST:
            self._unsent += json.dumps(message).encode() + b"\n"
        try:
            self._unsent = self._unsent[self.socket.send(self._unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            self.closed = True

    def receive(self) -> list[Message]:
        """What has come; sets `closed` when the other end is gone."""
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
        """In a forked process: let go of the parent's connections, or its death would not close them."""
        for link in list(cls._all):
            link.socket.close()


os.register_at_fork(after_in_child=Link.close_copies)


class Post(Protocol):
    """A rank's connections, and what they tell of others."""

    members: list[Member]
    verdict: Verdict | None

    def poll(self, seconds: float) -> None:
        """Take in what comes within this time."""

    def send(self, message: Message) -> None:
        """To everyone on the other ends."""

    def close(self) -> None:
        """Close all connections."""


class Hub:
    """Rank 0: hears all ranks. `members` are the others."""

    def __init__(self, world_size: int) -> None:
        self.members = [Member(rank=rank) for rank in range(1, world_size)]
        self.verdict: Verdict | None = None
        self.secret = secrets.token_hex(16)
        self._links: dict[Link, Member | None] = {}
        self._listener = Link(_listener())
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener.socket, selectors.EVENT_READ, None)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listener.socket.getsockname()[1])

    def poll(self, seconds: float) -> None:
        """Take in what comes within this time."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                if key.data is None:
                    self._accept()
                else:
                    self._hear(key.data)

    def send(self, message: Message) -> None:
        """To every rank that has come."""
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
        except (ValueError, LookupError, TypeError, AttributeError):  # not one of ours
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
            found = self.members[message["rank"] - 1]
            if found.state != "absent" or not secrets.compare_digest(message["secret"], self.secret):
                raise ValueError("not one of ours")
            member = self._links[link] = found
        take(member, message)


class Spoke:
    """Another rank: hears rank 0. `members` is rank 0 alone."""

    def __init__(self, end: socket.socket, rank: int, secret: str) -> None:
        self.members = [Member(rank=0)]
        self.verdict: Verdict | None = None
        self._link, self._hello = Link(end), {"rank": rank, "secret": secret}

    def poll(self, seconds: float) -> None:
        """Take in what comes within this time."""
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
        """To rank 0."""
        self._link.send(self._hello | message)
        self._hello = {}

    def close(self) -> None:
        """Close the connection."""
        self._link.socket.close()


class PortTaken(Exception):
    """The rendezvous of this start cannot be opened; a later start may find it free."""


class Meeting:
    """How the ranks find rank 0, before any process group: its port is in the rendezvous store."""

    def __init__(self, world: World) -> None:
        os.environ.update(rendezvous(world))
        environment = os.environ
        self.world, self.host, self._port = world, environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
        # torchrun keeps the store in its own process, and uses it again for a restarted group.
        self._kept_by_launcher = environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        # Another job's store may be at this port: its rank 0 must not be taken for ours.
        start = [environment.get("TORCHELASTIC_RUN_ID") or environment.get("SLURM_JOB_ID", "")]
        start += [environment.get(f"{launcher}_RESTART_COUNT", "0") for launcher in ("TORCHELASTIC", "SLURM")]
        self._key = "/".join(["watchdog", *start])
        self._store: Store | None = None

    def open(self) -> Hub:
        """Rank 0 listens, and says where; raises PortTaken where the store cannot be had."""
        hub = Hub(self.world.world_size)
        try:
            self._store = self._new_store(is_master=not self._kept_by_launcher)
        except DistError:
            hub.close()
            raise PortTaken(
                f"rank 0 cannot have the rendezvous at {self.host}, port {self._port}: something else is there, "
                "or the address is another host's; set MASTER_ADDR and MASTER_PORT"
            ) from None
        self._store.set(self._key, f"{hub.port} {hub.secret}")
        return hub

    def try_to_come(self) -> Spoke | None:
        """Another rank: connected, or None where rank 0 does not listen yet."""
        try:
            if self._store is None:
                # The store's own client prints pages when nobody listens.
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
        timeout = datetime.timedelta(seconds=_STORE_SECONDS)
        return TCPStore(
            self.host,
            self._port,
            is_master=is_master,
            timeout=timeout,
            wait_for_workers=False,
            multi_tenant=True,  # the process group's store is at the same port of the same process
        )


def take(member: Member, message: Message) -> None:
    """Note what a rank said: a beat, or how it ended."""
    if beat := message.get("beat"):
        member.beat = Beat(**beat | {"process": Process(**beat["process"])})
        if member.state == "absent":
            member.state = "alive"
        if member.state == "alive":
            member.since_seconds = 0.0
    if state := message.get("state"):
        ended: State = state
        member.state, member.note, member.since_seconds = ended, str(message.get("note", "")), 0.0


def verdict_from(plain: Message) -> Verdict:
    """A verdict out of its JSON."""
    silent = tuple(Process(**process) for process in plain["silent"])
    return Verdict(**plain | {"culprits": tuple(plain["culprits"]), "silent": silent})


def to_message(thing: Beat | Verdict) -> Message:
    """As JSON has it."""
    return dataclasses.asdict(thing)


def _listener() -> socket.socket:
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):
            return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
    return socket.create_server(("", 0), backlog=1024)
