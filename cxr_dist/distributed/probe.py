"""Do all ranks find each other, and how fast do sums cross them? For `cxr-dist doctor`, before training.

Ranks meet at a key-value store on rank 0's host, the one that torch's rendezvous uses. It needs no collective, so
that rank 0 can still say who came when a collective would hang. Values are text: no pickle.
"""

import contextlib
import datetime
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from cxr_dist.distributed.world import World, rendezvous
from cxr_dist.errors import UserError

BUFFER_BYTES = 25 * 2**20  # a bucket of DistributedDataParallel
_TURNS = 5
_POLL_SECONDS = 0.05


class RollCall:
    """The store that ranks meet at: each leaves text under its rank, and rank 0 collects it."""

    def __init__(self, store: Any, world: World) -> None:
        self.store, self.world = store, world

    def say(self, topic: str, text: str) -> None:
        """Leave this rank's text."""
        self.store.set(f"{topic}/{self.world.rank}", text)

    def hear(self, topic: str, seconds: float) -> dict[int, str]:
        """The texts of all ranks, by rank, or of those that left one within so many seconds."""
        deadline, waiting = time.monotonic() + seconds, set(range(self.world.world_size))
        heard: dict[int, str] = {}
        while waiting and (not heard or time.monotonic() < deadline):
            for rank in sorted(waiting):
                if self.store.check([f"{topic}/{rank}"]):
                    heard[rank] = self.store.get(f"{topic}/{rank}").decode()
            waiting -= heard.keys()
            time.sleep(_POLL_SECONDS if waiting else 0)
        return heard

    def hear_main(self, topic: str, seconds: float) -> str:
        """Rank 0's text; raises UserError where none comes."""
        try:
            self.store.wait([f"{topic}/0"], datetime.timedelta(seconds=seconds))
            return str(self.store.get(f"{topic}/0").decode())
        except RuntimeError:  # torch's errors of a store: a time-out, a connection that broke
            raise UserError(
                f"rank {self.world.rank} heard nothing from rank 0 for {seconds:g} s, or it has ended"
            ) from None


def call_the_roll(world: World, seconds: float) -> RollCall:
    """Join the store (all ranks); raises UserError where rank 0 cannot be reached, or cannot open its port."""
    os.environ.update(rendezvous(world))
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    # torchrun's agent holds the store itself.
    serves = world.is_main and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    if not serves:
        _await_listener(world, address, port, seconds)
    try:
        store = dist.TCPStore(  # type: ignore[attr-defined]
            address,
            port,
            is_master=serves,
            timeout=datetime.timedelta(seconds=seconds),
            wait_for_workers=False,  # it would not say who is missing
        )
    except (RuntimeError, OSError) as error:  # torch's own kinds derive from RuntimeError
        if "EADDRINUSE" in str(error):
            raise UserError(
                f"port {port} of this host is taken, by another job or what is left of one: end it, or set "
                "MASTER_PORT to a free one"
            ) from None
        raise UserError(
            f"rank {world.rank} cannot open the store at {address}:{port}: set MASTER_ADDR to an address of the "
            "host of rank 0"
        ) from None
    return RollCall(_part_of(store, "cxr_dist doctor"), world)


def _await_listener(world: World, address: str, port: int, seconds: float) -> None:
    """Wait for rank 0 to listen; the store's own client prints pages while nobody does."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return socket.create_connection((address, port), timeout=1).close()
        except OSError as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"rank {world.rank} reached nobody at {address}:{port} within {seconds:g} s: {_reason(error)}"
                ) from None
            time.sleep(_POLL_SECONDS)


def _reason(error: OSError) -> str:
    """Why a connection fails, and what to look at."""
    if isinstance(error, socket.gaierror):
        return "this host does not know that name; set MASTER_ADDR to an address of the host of rank 0"
    if isinstance(error, ConnectionRefusedError):
        return "the host answers, and nothing listens there; is rank 0 running, and is this its host?"
    return "no answer; is MASTER_ADDR the host of rank 0, and does a firewall close the port between nodes?"


def _part_of(store: Any, name: str) -> Any:
    return dist.PrefixStore(name, store)  # type: ignore[attr-defined]


@dataclass(frozen=True, kw_only=True)
class AllReduceSpeed:
    """What an all-reduce costs between these ranks."""

    latency_seconds: float
    """Of four bytes; median."""
    bytes_per_second: float
    """Bus bandwidth, 2 (W - 1) / W × bytes / seconds, comparable between world sizes (nccl-tests, PERFORMANCE.md)."""
    clock_skew_seconds: float
    """Between the ranks' wall clocks, to within the latency of a collective."""


@contextlib.contextmanager
def group_for_probe(roll: RollCall, device: torch.device, seconds: float) -> Iterator[None]:
    """The process group that training would have, for as long as the block; errors leave it as it is."""
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=_part_of(roll.store, "probe"),
        rank=roll.world.rank,
        world_size=roll.world.world_size,
        # Longer than our own patience: NCCL's watchdog would end the process before it can say why.
        timeout=datetime.timedelta(seconds=2 * seconds),
    )
    yield
    dist.destroy_process_group()


def device_of(world: World) -> torch.device:
    """The device that training would choose for this rank."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.cuda.set_device(world.local_rank % torch.cuda.device_count())
    return torch.device("cuda", torch.cuda.current_device())


def all_reduce_speed(roll: RollCall, device: torch.device, seconds: float) -> AllReduceSpeed:
    """Check a sum over all ranks and time it (all ranks); raises UserError where it is wrong or does not end."""
    try:
        with group_for_probe(roll, device, seconds):
            values = _checked_sum(roll.world, device, seconds)
            one = torch.zeros(1, device=device)
            whole = _median_seconds(values)
            share = 2 * (roll.world.world_size - 1) / roll.world.world_size
            return AllReduceSpeed(
                latency_seconds=_median_seconds(one),
                bytes_per_second=share * BUFFER_BYTES / whole,
                clock_skew_seconds=_clock_skew(device),
            )
    except UserError:
        raise
    except RuntimeError as error:  # all that torch.distributed raises
        kind = next((line for line in str(error).splitlines() if line), type(error).__name__)
        raise UserError(f"the ranks met, but a collective failed: {kind[:200]}") from None


def _checked_sum(world: World, device: torch.device, seconds: float) -> torch.Tensor:
    """Whole numbers below 2^24, which float32 adds exactly in any order."""
    pattern = (torch.arange(BUFFER_BYTES // 4, device=device) % 251).float()
    values = pattern + world.rank
    work = dist.all_reduce(values, async_op=True)
    deadline = time.monotonic() + seconds
    while not work.is_completed():
        if time.monotonic() > deadline:
            raise UserError(f"the ranks met, but a sum over them did not end within {seconds:g} s")
        time.sleep(_POLL_SECONDS)
    work.wait()
    size = world.world_size
    wrong = int((values != size * pattern + size * (size - 1) / 2).sum())
    if wrong:
        raise UserError(
            f"a sum over the ranks is wrong in {wrong} of {len(values)} values: a link or a GPU is bad"
        )
    return values.zero_()


def _median_seconds(values: torch.Tensor) -> float:
    """Of one all-reduce of these values, on this rank."""
    turns = []
    for _ in range(_TURNS):
        dist.barrier()
        start = time.perf_counter()
        dist.all_reduce(values)
        float(values[0])  # on CUDA the call returns at once
        turns.append(time.perf_counter() - start)
    return sorted(turns)[_TURNS // 2]


def _clock_skew(device: torch.device) -> float:
    clocks = torch.zeros(dist.get_world_size(), dtype=torch.float64, device=device)
    dist.barrier()
    clocks[dist.get_rank()] = time.time()
    dist.all_reduce(clocks)
    return float(clocks.max() - clocks.min())
