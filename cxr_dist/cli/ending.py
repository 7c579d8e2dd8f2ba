"""How a command ends: its exit status, and one line on standard error if something is wrong.

A mistake that all ranks of a job make is said once, by rank 0. The other ranks wait a moment, in which torchrun,
accelerate and `srun --kill-on-bad-exit` end them because rank 0 has failed; only then do they say what is wrong.
"""

import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING

from cxr_dist.errors import EXIT_INTERRUPTED, EXIT_REFUSED, CommandLineError, UserError, printable, refusal

if TYPE_CHECKING:
    from cxr_dist.distributed.world import World

EXIT_CLOSED = 141
"""Exit status if the reader of standard output went away, as `head` does: that of a process ended by SIGPIPE."""
EXIT_TERMINATED = 143
"""Exit status after SIGTERM, as shells report it."""
_PATIENCE_SECONDS = 10.0  # for the launcher to end this rank, if rank 0 has failed as well

Status = int | str | None


class Terminated(KeyboardInterrupt):
    """SIGTERM, from `scancel`, a time limit or `kill`, which ends a command as Ctrl-C does."""


@contextmanager
def interruptible(say: Callable[[], str]) -> Iterator[None]:
    """Let Ctrl-C or SIGTERM in the block end the command with these words about what was written."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise type(interrupt)(str(interrupt) or say()) from None


def status_after(act: Callable[[], object]) -> Status:
    """Call `act` and return the exit status; a UserError, Ctrl-C, SIGTERM and a closed pipe end without a traceback."""
    status: Status = 0
    _interrupt_on_sigterm()
    try:
        act()
    except SystemExit as end:
        status = end.code
    except KeyboardInterrupt as interrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a further one would only add a traceback
        if (world := _world()) is None or world.is_main:
            what = "terminated (SIGTERM)" if isinstance(interrupt, Terminated) else "interrupted"
            _print(f"{what}: {str(interrupt) or 'nothing written'}")
        status = EXIT_TERMINATED if isinstance(interrupt, Terminated) else EXIT_INTERRUPTED
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _is_closed(sys.stdout):
            status = EXIT_CLOSED
        else:
            reason = refusal(error)
            if reason is None:
                raise
            status = _refuse(reason)
    return _flushed(status)


def _interrupt_on_sigterm() -> None:
    """Let SIGTERM raise `Terminated` in the main thread, so that every block that cleans up does so.

    `train` handles SIGTERM itself, because it saves. Does nothing if the process already handles it or ignores it.
    """
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return
    process, report = os.getpid(), sys.unraisablehook

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # a forked worker that has not yet chosen what to do
            os._exit(EXIT_TERMINATED)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a further one would interrupt the cleaning up
        raise Terminated

    def again(ignored: "sys.UnraisableHookArgs") -> None:
        """Python ignores errors in a destructor or callback; then SIGTERM comes once more, a moment later."""
        if ignored.exc_type is Terminated:
            signal.signal(signal.SIGTERM, end)
            threading.Timer(0.05, os.kill, (process, signal.SIGTERM)).start()
        else:
            report(ignored)

    sys.unraisablehook = again
    signal.signal(signal.SIGTERM, end)


def _refuse(error: UserError) -> Status:
    """Say what is wrong, once in a job, and see to it that SLURM does not start the job again."""
    if _speaks(error):
        _print(str(error))
        _tell_launcher(f"cxr-dist: {printable(str(error))}")
    with suppress(OSError):  # at the limit on open files, neither modules nor pipes can be opened
        from cxr_dist.run.requeue import forbid_requeue

        forbid_requeue()
    return EXIT_REFUSED


def _speaks(error: UserError) -> bool:
    """Whether this rank has to say the error; returns at once on rank 0, and later on the others, if at all."""
    world = _world()
    if world is None or world.is_main or error.known_to_all:
        return True
    with suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(_PATIENCE_SECONDS)
    return not isinstance(error, CommandLineError) or (world.node > 0 and world.local_rank == 0)


def _world() -> "World | None":
    """This rank's place in the job; None if the environment has impossible variables."""
    from cxr_dist.distributed.world import World

    try:
        return World.from_environment()
    except ValueError:
        return None


def _tell_launcher(message: str) -> None:
    """Write the error file from which torchrun and accelerate take the reason in their summary."""
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        content = {"message": {"message": message, "extraInfo": {"timestamp": str(int(time.time()))}}}
        with suppress(OSError), open(path, "w", encoding="utf-8") as file:
            json.dump(content, file)


def _print(message: str) -> None:
    with suppress(OSError):
        print(f"cxr-dist: {printable(message)}", file=sys.stderr, flush=True)


def _flushed(status: Status) -> Status:
    """Write what is buffered; if nobody reads it, be quiet also at the interpreter's end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())
            status = status or EXIT_CLOSED
    return status


def _is_closed(stream: object) -> bool:
    """Whether the other end of a pipe is closed."""
    poll = select.poll()
    try:
        poll.register(stream.fileno(), select.POLLOUT)  # type: ignore[attr-defined]
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (OSError, ValueError):
        return False
