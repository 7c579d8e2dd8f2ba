"""How the ranks' watchdogs find rank 0, before there is a process group: its port is in the rendezvous store."""

import datetime
import os
import socket

from torch.distributed import DistError, Store, TCPStore  # type: ignore[attr-defined]

from cxr_dist.distributed.watch.heartbeat import Hub, Spoke
from cxr_dist.distributed.world import World, rendezvous

_ANSWER_SECONDS = 5
_STORE_SECONDS = 30  # its client prints pages where a busy machine is slower


class PortTaken(Exception):
    """The rendezvous of this start cannot be opened; a later start may find it free."""


class Meeting:
    """How the ranks find rank 0, before any process group: its port is in the rendezvous store."""

    def __init__(self, world: World) -> None:
        os.environ.update(rendezvous(world))
        found = os.environ
        self.world, self.host, self._port = world, found["MASTER_ADDR"], int(found["MASTER_PORT"])
        # torchrun keeps the store in its own process, and uses it again for a restarted group.
        self._kept_by_launcher = found.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        # Another job's store may be at this port: its rank 0 must not be taken for ours.
        start = [found.get("TORCHELASTIC_RUN_ID") or found.get("SLURM_JOB_ID", "")]
        start += [found.get(f"{launcher}_RESTART_COUNT", "0") for launcher in ("TORCHELASTIC", "SLURM")]
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
