"""Check before training that all ranks find each other, and measure an all-reduce, for `cxr-dist doctor`.

Ranks exchange text in the key-value store of torch's rendezvous, on rank 0's host. The store needs no collective, so
that rank 0 can report which ranks joined even if a collective would hang.
"""

import contextlib
import datetime
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from cxr_dist.distributed.world import World, rendezvous
from cxr_dist.errors import UserError

BUFFER_BYTES = 25 * 2**20  # a bucket of DistributedDataParallel
_TURNS = 5
_POLL_SECONDS = 0.05


class RollCall:
    """Exchange of text between ranks: each rank writes its text to the store, and rank 0 collects the texts."""

    def __init__(self, store: Store, world: World) -> None:
        self.store, self.world = store, world

    def say(self, topic: str, text: str) -> None:
        """Write this rank's text."""
        self.store.set(f"{topic}/{self.world.rank}", text)

    def hear(self, topic: str, seconds: float) -> dict[int, str]:
        """Return the texts by rank, as soon as all ranks have written one, or after this many seconds."""
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
        """Return rank 0's text; raises UserError if there is none within this many seconds."""
        try:
            self.store.wait([f"{topic}/0"], datetime.timedelta(seconds=seconds))
            return str(self.store.get(f"{topic}/0").decode())
        except RuntimeError:  # the store's errors: a timeout or a broken connection
            raise UserError(
                f"rank {self.world.rank} heard nothing from rank 0 for {seconds:g} s, or it has ended"
            ) from None


def call_the_roll(world: World, seconds: float) -> RollCall:
    """Join the store (all ranks); raises UserError if rank 0 cannot be reached or cannot open its port."""
    os.environ.update(rendezvous(world))
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    # torchrun's agent has opened the store already.
    serves = world.is_main and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    if not serves:
        _await_listener(world, address, port, seconds)
    try:
        # wait_for_workers would not tell which ranks are missing.
        timeout = datetime.timedelta(seconds=seconds)
        store = TCPStore(address, port, is_master=serves, timeout=timeout, wait_for_workers=False)
    except (RuntimeError, OSError) as error:  # torch's own errors derive from RuntimeError
        if "EADDRINUSE" in str(error):
            raise UserError(
                f"port {port} of this host is taken, perhaps by the remains of another job: end that process, or set "
                "MASTER_PORT to a free port"
            ) from None
        raise UserError(
            f"rank {world.rank} cannot open the store at {address}:{port}: set MASTER_ADDR to an address of the "
            "host of rank 0"
        ) from None
    return RollCall(PrefixStore("cxr_dist doctor", store), world)


def _await_listener(world: World, address: str, port: int, seconds: float) -> None:
    """Wait until rank 0 listens, because the store's own client prints long errors until then."""
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
    """Say why a connection failed and what to check."""
    if isinstance(error, socket.gaierror):
        return "this host cannot resolve that name; set MASTER_ADDR to an address of the host of rank 0"
    if isinstance(error, ConnectionRefusedError):
        return "the host answers, but nothing listens there; check that rank 0 runs, and that this is its host"
    return "no answer; check that MASTER_ADDR is the host of rank 0, and that no firewall blocks the port"


@dataclass(frozen=True, kw_only=True)
class AllReduceSpeed:
    """The cost of an all-reduce between these ranks."""

    latency_seconds: float
    """Median time of an all-reduce of four bytes."""
    bytes_per_second: float
    """Bus bandwidth, 2 (W - 1) / W × bytes / seconds, comparable between world sizes (nccl-tests, PERFORMANCE.md)."""
    clock_skew_seconds: float
    """Largest difference between the ranks' wall clocks, to within the latency of a collective."""


@contextlib.contextmanager
def group_for_probe(roll: RollCall, seconds: float) -> Iterator[None]:
    """Create the process group that training would use, and destroy it if the block ends without an error."""
    cuda = roll.world.device.type == "cuda"
    if cuda:
        torch.cuda.set_device(roll.world.device)
    dist.init_process_group(
        "nccl" if cuda else "gloo",
        store=PrefixStore("probe", roll.store),
        rank=roll.world.rank,
        world_size=roll.world.world_size,
        # Longer than `seconds`, because NCCL's watchdog would end the process before it can print the reason.
        timeout=datetime.timedelta(seconds=2 * seconds),
    )
    yield
    dist.destroy_process_group()


def all_reduce_speed(roll: RollCall, seconds: float) -> AllReduceSpeed:
    """Check and time a sum over all ranks (all ranks); raises UserError if it is wrong or not done in time."""
    try:
        with group_for_probe(roll, seconds):
            values = _checked_sum(roll.world, seconds)
            one = torch.zeros(1, device=roll.world.device)
            whole = _median_seconds(values)
            share = 2 * (roll.world.world_size - 1) / roll.world.world_size
            return AllReduceSpeed(
                latency_seconds=_median_seconds(one),
                bytes_per_second=share * BUFFER_BYTES / whole,
                clock_skew_seconds=_clock_skew(roll.world.device),
            )
    except UserError:
        raise
    except RuntimeError as error:  # the base class of all errors of torch.distributed
        reason = next((line for line in str(error).splitlines() if line), type(error).__name__)
        raise UserError(f"the ranks met, but a collective failed: {reason[:200]}") from None


def _checked_sum(world: World, seconds: float) -> torch.Tensor:
    """Sum integers below 2^24, which float32 adds exactly in any order, and return the buffer filled with zeros."""
    pattern = (torch.arange(BUFFER_BYTES // 4, device=world.device) % 251).float()
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
        raise UserError(f"a sum over the ranks is wrong in {wrong} of {len(values)} values: a link or a GPU is bad")
    return values.zero_()


def _median_seconds(values: torch.Tensor) -> float:
    """Return the median time of an all-reduce of these values on this rank."""
    turns = []
    for _ in range(_TURNS):
        dist.barrier()
        start = time.perf_counter()
        dist.all_reduce(values)
        float(values[0])  # waits: on CUDA all_reduce returns before it is done
        turns.append(time.perf_counter() - start)
    return sorted(turns)[_TURNS // 2]


def _clock_skew(device: torch.device) -> float:
    clocks = torch.zeros(dist.get_world_size(), dtype=torch.float64, device=device)
    dist.barrier()
    clocks[dist.get_rank()] = time.time()
    dist.all_reduce(clocks)
    return float(clocks.max() - clocks.min())
