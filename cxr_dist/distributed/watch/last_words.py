"""The end of a rank that the watchdog ends: one line and the stacks of all threads; then workers and process go.

Stacks are code positions, with no value in them. Nothing that a stuck thread may hold is waited for.
"""

import contextlib
import faulthandler
import os
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

from cxr_dist.distributed.watch.process import children, kill_children
from cxr_dist.distributed.watch.verdict import EXIT_ENDED, Verdict

_WRITE_SECONDS = 3.0  # for a terminal or pipe that nobody reads


def end(
    rank: int, verdict: Verdict, failure: str = "", farewell: Callable[[], None] = lambda: None
) -> NoReturn:
    """Say why, call `farewell`, end this process's workers and leave with the verdict's status.

    Args:
        rank: This process's, before each line.
        verdict: What the others are told, too.
        failure: The traceback of an exception that this rank met itself.
        farewell: Done after the writing; must not block.
    """
    try:
        say(rank, _text(verdict, failure))
        farewell()
        for process in verdict.silent:
            process.kill()
        kill_children()
    finally:
        os._exit(verdict.status)


def _text(verdict: Verdict, failure: str) -> str:
    states = [f"pid {p.pid} is {p.state}" for p in verdict.silent if p.state]
    seen = f" ({', '.join(states)})" if states else ""
    lines = [f"watchdog: {verdict.text}{seen}; ending the job"]
    if verdict.status == EXIT_ENDED:
        lines += [f"its worker, pid {pid}, is {state}" for pid, state in children()]
        lines += [failure, _stacks()]
    return "\n".join(lines)


def _stacks() -> str:
    """Of all threads but this one; written to memory, because a disk may be what the rank hangs on."""
    if sys.platform != "linux":
        return ""
    with open(os.memfd_create("stacks"), "w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        threads = file.read().split("\n\n")
    return "\n".join(thread for thread in threads if not thread.startswith("Current thread"))


def say(rank: int, text: str) -> None:
    """Text to standard error, each line with the rank, in one piece."""
    lines = "".join(f"[rank {rank}] {line}\n" for line in text.splitlines() if line)

    def write() -> None:
        with contextlib.suppress(OSError):
            os.write(2, lines.encode())
        sys.stdout.flush()
        sys.stderr.flush()

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    writer.join(_WRITE_SECONDS)
