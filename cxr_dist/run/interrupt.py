"""Ctrl-C and SIGTERM as one exception, although they may come several times, or where Python drops exceptions.

A second exception while the first one ends the command would skip the end, and print a traceback.
"""

import os
import signal
import sys
import threading
import time
from types import FrameType

_SECONDS = 2.0
_LATER_SECONDS = 0.05


class Terminated(KeyboardInterrupt):
    """SIGTERM, from `scancel`, a time limit or `kill`, which ends a command as Ctrl-C does."""


class Interrupt:
    """Handler of a signal that raises an exception in the main thread, but not again within two seconds.

    After that it does: a library may have dropped the first exception, or the end may take long.
    """

    raised: type[KeyboardInterrupt] | None = None
    """What one of these handlers has raised. An error after that is a consequence: torch, for example, drops the
    exception while it imports numpy, which then cannot be imported again."""
    dropped = False
    """Whether Python has dropped the exception, so that it is due once more."""

    def __init__(self, error: type[KeyboardInterrupt] = KeyboardInterrupt) -> None:
        self._error, self._process, self._last = error, os.getpid(), float("-inf")

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self._error is Terminated and os.getpid() != self._process:
            os._exit(128 + number)  # a forked worker that has not yet chosen what to do
        now = time.monotonic()
        if now - self._last >= _SECONDS or Interrupt.dropped:
            self._last, Interrupt.raised, Interrupt.dropped = now, self._error, False
            raise self._error


def raise_when_dropped() -> None:
    """Let an exception of `Interrupt` that Python drops, in a finalizer or callback, be raised a moment later."""
    report, process = sys.unraisablehook, os.getpid()

    def again(ignored: "sys.UnraisableHookArgs") -> None:
        if not issubclass(ignored.exc_type, KeyboardInterrupt):
            report(ignored)
            return
        Interrupt.dropped = True
        number = signal.SIGTERM if ignored.exc_type is Terminated else signal.SIGINT
        later = threading.Timer(_LATER_SECONDS, os.kill, (process, number))
        later.daemon = True
        later.start()

    sys.unraisablehook = again


def ignore(number: int, frame: FrameType | None) -> None:
    """Handler that does nothing; unlike SIG_IGN it is not inherited by the processes that this one starts."""
