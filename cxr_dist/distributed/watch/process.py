"""Processes as the kernel sees them: who one is, for other hosts too; its state; its workers.

A process id is used again after a process ended, and means another process in another container, so a process
is known by its machine (boot and pid namespace), id and start time.
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
    """A process, on whichever host."""

    host: str
    machine: str
    """Boot id and pid namespace; empty where /proc is absent, and then no process is known again."""
    pid: int
    started: str
    """Clock ticks from boot to its start."""

    @property
    def state(self) -> str:
        """As `T, stopped`; empty for a process of another machine and for one that is gone."""
        letter = _stat(self.pid)[0] if self.is_here else ""
        return f"{letter}, {_STATES.get(letter, 'unknown')}" if letter else ""

    @property
    def is_here(self) -> bool:
        """Whether it is a process of this machine, and still there."""
        return self.machine != "" and self.machine == _machine() and _stat(self.pid)[1] == self.started

    def kill(self) -> None:
        """End it where it is on this machine and ours; also a stopped one."""
        if self.is_here and self.pid != os.getpid():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self.pid, signal.SIGKILL)


def this_process() -> Process:
    """The process that asks."""
    pid = os.getpid()
    return Process(host=socket.gethostname(), machine=_machine(), pid=pid, started=_stat(pid)[1])


def children() -> list[tuple[int, str]]:
    """This process's workers: (process id, state)."""
    pids = [child.pid for child in multiprocessing.active_children() if child.pid is not None]
    return [(pid, _STATES.get(_stat(pid)[0], "gone")) for pid in pids]


def kill_children() -> None:
    """End this process's workers; they ignore TERM."""
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
    """(state letter, start time) as /proc/PID/stat has them; empty where there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "", ""
    fields = text.rpartition(")")[2].split()  # the name before may hold anything
    return fields[0], fields[19]
