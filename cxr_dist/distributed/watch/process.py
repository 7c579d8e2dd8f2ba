"""Identify processes across hosts, and read their state and worker processes from /proc.

Process ids are reused, and differ between containers. A process is therefore identified by its machine (boot id and
pid namespace), its id and its start time.
"""

import contextlib
import multiprocessing
import os
import signal
import socket
from dataclasses import dataclass
from pathlib import Path

_STATES = {
    "R": "running",
    "S": "sleeping",
    "D": "waiting for a disk or file server",
    "T": "stopped",
    "t": "stopped by a debugger",
    "Z": "a zombie",
}


@dataclass(frozen=True, kw_only=True)
class Process:
    """A process on any host."""

    host: str
    machine: str
    """Boot id and pid namespace; empty without /proc, in which case the process cannot be identified later."""
    pid: int
    started: str
    """Start time in clock ticks since boot."""

    @property
    def state(self) -> str:
        """The kernel's state, such as `T, stopped`; empty if the process has ended or is on another machine."""
        letter = _stat(self.pid)[0] if self.is_here else ""
        return f"{letter}, {_STATES.get(letter, 'unknown')}" if letter else ""

    @property
    def is_here(self) -> bool:
        """Whether the process is on this machine and has not ended."""
        return self.machine != "" and self.machine == _machine() and _stat(self.pid)[1] == self.started

    def kill(self) -> None:
        """Send SIGKILL, if the process is another one on this machine and belongs to the user."""
        if self.is_here and self.pid != os.getpid():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self.pid, signal.SIGKILL)


def this_process() -> Process:
    """Return the calling process."""
    pid = os.getpid()
    return Process(host=socket.gethostname(), machine=_machine(), pid=pid, started=_stat(pid)[1])


def children() -> list[tuple[int, str]]:
    """Return (process id, state) of the worker processes of this process."""
    pids = [child.pid for child in multiprocessing.active_children() if child.pid is not None]
    return [(pid, _STATES.get(_stat(pid)[0], "gone")) for pid in pids]


def kill_children() -> None:
    """Kill the worker processes of this process, which ignore SIGTERM."""
    for pid, _ in children():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _stat(pid: int) -> tuple[str, str]:
    """Return (state letter, start time) from /proc/PID/stat; empty if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "", ""
    fields = text.rpartition(")")[2].split()  # the name in parentheses may contain any character
    return fields[0], fields[19]
