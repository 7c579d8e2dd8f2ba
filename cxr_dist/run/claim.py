"""Ownership of a run folder: only the most recent start of a run writes to its folder.

A node that SLURM considers lost may still run its ranks while the requeued job trains in the same folder, and a user
may start a run twice. Rank 0 writes a token to owner.json when it starts, and checks before each checkpoint and each
logged step that the token is still there. This needs only an atomic rename, so it also works on NFS, where locks may
not.
"""

import datetime
import errno
import json
import os
import secrets
import socket
from pathlib import Path
from typing import Any

from cxr_dist.errors import UserError
from cxr_dist.files import read_regular, write_whole
from cxr_dist.run.slurm_job import restart_count, slurm_job

_FILE = "owner.json"


class Claim:
    """This start's claim on a run folder (rank 0)."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / _FILE
        self._token = secrets.token_hex(8)

    def take(self) -> None:
        """Claim the folder. The previous owner stops at its next check."""
        write_whole(self._path, json.dumps(self._owner(), indent=1) + "\n")

    def _owner(self) -> dict[str, Any]:
        return {
            "token": self._token,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "job": slurm_job(),
            "restart": restart_count(),
            "since": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }

    def check(self) -> None:
        """Raise UserError if another start has claimed the folder, or if the folder was removed."""
        try:
            owner = json.loads(read_regular(self._path))
        except FileNotFoundError:
            raise UserError(
                f"{self._path.parent} no longer contains {_FILE}: the folder was moved or cleared during the run. "
                "Nothing was written to it since"
            ) from None
        except (OSError, ValueError, RecursionError) as error:
            if isinstance(error, OSError) and error.errno != errno.EINVAL:
                raise
            owner = None
        if not isinstance(owner, dict) or self._owner().keys() - owner.keys():
            raise UserError(
                f"{_FILE} in {self._path.parent} was overwritten by something else: this process writes nothing more "
                "and exits; start the same command again to continue"
            )
        if owner["token"] != self._token:
            raise UserError(
                f"the run folder {self._path.parent} was taken over by {_named(owner)}; "
                "this process writes nothing more and exits"
            )


def _named(owner: dict[str, Any]) -> str:
    job = f"job {owner['job']} (restart {owner['restart']}), " if owner["job"] else ""
    return f"{job}process {owner['pid']} on {owner['host']}, at {owner['since']}"
