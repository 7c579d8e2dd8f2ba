"""Whose a run folder is: the last start of the run, and no other, writes to it.

A node that SLURM has given up may still run its ranks while the requeued job trains in the same folder; and a person
may start a run twice. Rank 0 puts its name into owner.json when it starts, and looks before each checkpoint and each
logged step whether it still stands there. It needs nothing but rename, so it works on NFS, too, where locks may not.
"""

import datetime
import json
import os
import secrets
import socket
from pathlib import Path
from typing import Any

from cxr_dist.errors import UserError
from cxr_dist.files import write_whole
from cxr_dist.run.slurm_job import restart_count, slurm_job

_FILE = "owner.json"


class Claim:
    """This start's claim on a run folder (rank 0)."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / _FILE
        self._token = secrets.token_hex(8)

    def take(self) -> None:
        """Make the folder ours; whoever had it leaves when it next looks."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        owner = {
            "token": self._token,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "job": slurm_job(),
            "restart": restart_count(),
            "since": now,
        }
        write_whole(self._path, json.dumps(owner, indent=1) + "\n")

    def check(self) -> None:
        """Raise UserError where another start has taken the folder over, or it is gone."""
        try:
            owner = json.loads(self._path.read_text())
        except FileNotFoundError:
            raise UserError(
                f"{self._path.parent} no longer holds {_FILE}: it was moved or cleared while the run went on. "
                "Nothing was written since"
            ) from None
        if owner["token"] != self._token:
            raise UserError(
                f"the run folder {self._path.parent} was taken over by {_named(owner)}; "
                "this start of the run writes nothing more and leaves"
            )


def _named(owner: dict[str, Any]) -> str:
    job = f"job {owner['job']} (restart {owner['restart']}), " if owner["job"] else ""
    return f"{job}process {owner['pid']} on {owner['host']}, at {owner['since']}"
