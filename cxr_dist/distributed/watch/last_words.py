"""End a rank for the watchdog: print the reason and the stacks of all threads, then kill workers and process.

Stacks contain code positions and no values. Nothing here waits for a resource that a stuck thread may hold.
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

_WRITE_SECONDS = 3.0  # then give up writing to a terminal or pipe that nobody reads


def end(rank: int, verdict: Verdict, failure: str = "", farewell: Callable[[], None] = lambda: None) -> NoReturn:
    """Print the reason, call `farewell`, kill this process's workers and exit with the verdict's status.

    Args:
        rank: Rank of this process, which begins each line.
        verdict: Why the job ends.
        failure: Traceback of an exception that this rank raised; empty for none.
        farewell: Called after the text was written; must not block.
    """
    try:
        write_stderr(rank, _text(verdict, failure))
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
    """Return the stacks of all other threads, written to memory because the rank may hang on a disk."""
    if sys.platform != "linux":
        return ""
    with open(os.memfd_create("stacks"), "w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        threads = file.read().split("\n\n")
    return "\n".join(thread for thread in threads if not thread.startswith("Current thread"))


def write_stderr(rank: int, text: str) -> None:
    """Write text to standard error in a single call, with the rank before each line."""
    lines = "".join(f"[rank {rank}] {line}\n" for line in text.splitlines() if line)

    def write() -> None:
        with contextlib.suppress(OSError):
            os.write(2, lines.encode())
        sys.stdout.flush()
        sys.stderr.flush()

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    writer.join(_WRITE_SECONDS)
