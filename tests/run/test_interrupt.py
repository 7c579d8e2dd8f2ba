"""Ctrl-C raises one KeyboardInterrupt, and not where Python would drop it."""

import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator

import pytest

from cxr_dist.run.interrupt import Interrupt, raise_when_dropped


@pytest.fixture
def handler() -> Iterator[Interrupt]:
    before, report = signal.signal(signal.SIGINT, handler := Interrupt()), sys.unraisablehook
    raise_when_dropped()
    yield handler
    signal.signal(signal.SIGINT, before)
    sys.unraisablehook = report


def test_the_exception_is_raised_once(handler):
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    for _ in range(3):
        signal.raise_signal(signal.SIGINT)


def test_later_it_is_raised_again(handler):
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    handler._last -= 3
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


DROPPED = """
import contextlib, signal, sys
from cxr_dist.cli.ending import status_after

def act():
    with contextlib.suppress(KeyboardInterrupt):  # as torch does while it imports numpy
        signal.raise_signal(signal.SIGINT)
    raise ImportError("cannot load module more than once per process")

sys.exit(status_after(act))
"""


def test_an_error_after_a_dropped_exception_is_an_interrupt():
    done = subprocess.run([sys.executable, "-c", DROPPED], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "cxr-dist: interrupted: nothing written\n")
    without = DROPPED.replace("signal.raise_signal(signal.SIGINT)", "pass")
    done = subprocess.run([sys.executable, "-c", without], capture_output=True, text=True)
    assert done.returncode == 1
    assert "ImportError" in done.stderr


class Finalized:
    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


def test_in_a_finalizer_it_is_raised_a_moment_later(handler, capfd):
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        Finalized()
        time.sleep(5)
    assert "Exception ignored" not in capfd.readouterr().err


def test_in_the_callback_of_a_weak_reference_it_is_raised_a_moment_later(handler, capfd):
    class Key:
        pass

    key = Key()
    weakref.finalize(key, signal.raise_signal, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012
        del key
        time.sleep(5)
    assert "Exception ignored" not in capfd.readouterr().err
