"""Connect the ranks for the watchdog before there is a process group, through the rendezvous store.

Rank 0 writes its port and a secret to the store. Any process that can read the store can join, so use a trusted network
only.
"""

import datetime
import os
import socket

from torch.distributed import DistError, Store, TCPStore  # type: ignore[attr-defined]

from cxr_dist.distributed.watch.heartbeat import Hub, Spoke
from cxr_dist.distributed.world import World, rendezvous

_ANSWER_SECONDS = 5
_STORE_SECONDS = 30  # if a busy machine takes longer, the store's client prints long errors


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
