"""Notice that a rank's launcher has ended, and let the rank save and exit.

A launcher that is killed leaves its processes running, as `accelerate launch` with one process does after SIGTERM.
"""

import os
import signal
from pathlib import Path

from cxr_dist.distributed.watch import last_words
from cxr_dist.distributed.watch.verdict import Verdict

_LAUNCHERS = ("torchrun", "torch.distributed.run", "accelerate", "slurmstepd", "submitit")
_ORPHAN_SECONDS = 30.0  # to save and exit; torchrun also waits this long after SIGTERM


class LauncherWatch:
    """Watches whether this rank's launcher is still running."""

    def __init__(self, rank: int) -> None:
        self.pid, self._rank, self._alone_seconds = launcher(), rank, 0.0

    def after(self, elapsed: float) -> Verdict | None:
        """Ask this rank to save and exit once its launcher has ended; return a verdict if that takes too long."""
        if self.pid is None or os.getppid() == self.pid:
            return None
        text = f"rank {self._rank}'s launcher (pid {self.pid}) is gone"
        if self._alone_seconds == 0.0:
            last_words.write_stderr(self._rank, f"watchdog: {text}; asking the run to save and exit")
            os.kill(os.getpid(), signal.SIGTERM)
        self._alone_seconds += elapsed
        late = self._alone_seconds > _ORPHAN_SECONDS
        return Verdict(culprits=(self._rank,), text=text) if late else None


def launcher() -> int | None:
    """Return the parent's process id if it is a launcher of ranks; None for a shell, which a run may outlive."""
    parent = os.getppid()
    try:
        command = Path(f"/proc/{parent}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return None
    return parent if any(name in command for name in _LAUNCHERS) else None
