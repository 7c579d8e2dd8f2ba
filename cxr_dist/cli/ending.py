"""How a command ends: its exit status, and one line on standard error if something is wrong.

A mistake that all ranks of a job make is said once, by rank 0. The other ranks wait a moment, in which torchrun,
accelerate and `srun --kill-on-bad-exit` end them because rank 0 has failed; only then do they say what is wrong.
Under the watchdog, ranks of a node that end with the same words say them once.
"""

import atexit
import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cxr_dist.errors import EXIT_INTERRUPTED, EXIT_REFUSED, CommandLineError, UserError, printable, refusal
from cxr_dist.run.interrupt import Interrupt, Terminated, ignore, raise_when_dropped

if TYPE_CHECKING:
    from cxr_dist.distributed.world import World

EXIT_CLOSED = 141
"""Exit status if the reader of standard output went away, as `head` does: that of a process ended by SIGPIPE."""
EXIT_TERMINATED = 143
"""Exit status after SIGTERM, as shells report it."""
NOTHING = "nothing written"
_PATIENCE_SECONDS = 10.0  # for the launcher to end this rank, if rank 0 has failed as well

Status = int | str | None


@contextmanager
def interruptible(say: Callable[[], str]) -> Iterator[None]:
    """Let Ctrl-C or SIGTERM in the block end the command with these words about what was written."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise type(interrupt)(str(interrupt) or say()) from None
    except Exception:
        if Interrupt.raised is not None:
            raise Interrupt.raised(say()) from None
        raise


def what_is_new(*paths: Path) -> Callable[[], str]:
    """Return a function that says which of these files were written since this call."""
    before = _times(paths)

    def say() -> str:
        new = [path for path, time in _times(paths).items() if before.get(path) != time]
        return f"{' and '.join(map(str, new))} written, and nothing else" if new else NOTHING

    return say


def _times(paths: Sequence[Path]) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in paths if path.exists()}


def status_after(act: Callable[[], object]) -> Status:
    """Call `act` and return the exit status; a UserError, Ctrl-C, SIGTERM and a closed pipe end without a traceback."""
    handled = _handle_signals()
    interrupts: list[int] = []
    atexit.register(_leave, interrupts)  # first, so that it is called last
    try:
        try:
            return _flushed(_exit_code(act))
        finally:
            for number in handled:
                signal.signal(number, ignore)  # the command is over; a further one would add a traceback
    except KeyboardInterrupt as interrupt:
        return _interrupted(interrupt, interrupts)
    except Exception as error:
        if Interrupt.raised is not None:
            return _interrupted(Interrupt.raised(), interrupts)
        if isinstance(error, BrokenPipeError) and _is_closed(sys.stdout):
            return _flushed(EXIT_CLOSED)
        reason = refusal(error)
        if reason is None:
            raise
        return _flushed(_refuse(reason))


def _handle_signals() -> list[int]:
    """Let Ctrl-C and SIGTERM raise exceptions, so that every block that cleans up does so; return which of them do.

    `train` replaces both handlers, because it saves. A signal that is ignored, as in a background job, or that the
    process handles already, is left alone, and so are all outside of the main thread.
    """
    Interrupt.raised = None
    if threading.current_thread() is not threading.main_thread():
        return []
    defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    handled = [number for number, default in defaults.items() if signal.getsignal(number) is default]
    for number in handled:
        signal.signal(number, Interrupt(Terminated if number == signal.SIGTERM else KeyboardInterrupt))
    raise_when_dropped()
    return [*handled]


def _exit_code(act: Callable[[], object]) -> Status:
    try:
        act()
    except SystemExit as end:
        return end.code
    return 0


def _interrupted(interrupt: KeyboardInterrupt, interrupts: list[int]) -> Status:
    """Say that the command was interrupted, and by what; returns the exit status."""
    terminated = isinstance(interrupt, Terminated)
    interrupts.append(EXIT_TERMINATED if terminated else EXIT_INTERRUPTED)
    if (world := _world()) is None or world.is_main:
        _print(f"{'terminated (SIGTERM)' if terminated else 'interrupted'}: {str(interrupt) or NOTHING}")
    return interrupts[0]


def _leave(interrupts: list[int]) -> None:
    """End an interrupted process with its status.

    Python itself would drop the handler before its end, so that a further Ctrl-C kills it, and it kills itself with
    SIGINT if the exception went through an `exec` of text, as in the modules of dataclasses.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if interrupts:
        os._exit(interrupts[0])  # without flushing standard output, whose reader may be stopped


def _refuse(error: UserError) -> Status:
    """Say what is wrong, once in a job, and see to it that SLURM does not start the job again."""
    speaks = not error.said_by_another and _speaks(error)
    if speaks:
        _print(str(error))
    if speaks or error.said_by_another:
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
