"""The tests also pass as a background job of a script, which starts with SIGINT ignored (`nohup make test &`)."""

import signal
import subprocess
import sys
from pathlib import Path

THIS = Path(__file__)


def test_a_process_that_a_test_starts_ends_at_sigint():
    code = "import signal; print(signal.getsignal(signal.SIGINT), flush=True); signal.pause()"
    started = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert "default_int_handler" in started.stdout.readline()
    started.send_signal(signal.SIGINT)
    assert started.wait(timeout=30) == -signal.SIGINT


def test_it_also_ends_if_the_tests_run_with_sigint_ignored():
    """May take five seconds: pytest starts and imports the package."""
    only = f"{THIS}::{test_a_process_that_a_test_starts_ends_at_sigint.__name__}"
    command = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", sys.executable, "-m", "pytest", "-q", only]
    done = subprocess.run(command, cwd=THIS.parents[1], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout
