"""Progress: a bar on a terminal; in a log, few plain lines, and none of a short command."""

import os
import pty
import re
import subprocess
import sys
import time

import pytest

from cxr_dist.shard import bar
from cxr_dist.shard.bar import image_progress


def show(items: int) -> None:
    with image_progress("Reading", items, "samples") as advance:
        for _ in range(items // 2):
            advance(2)
            time.sleep(0.01)


def test_a_short_command_prints_nothing_into_a_log(capfd):
    show(40)
    assert capfd.readouterr() == ("", "")


def test_a_long_command_prints_a_plain_line_now_and_then(capfd, monkeypatch):
    monkeypatch.setattr(bar, "_LINE_SECONDS", 0.1)
    show(60)
    out, err = capfd.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert 1 <= len(lines) <= 10  # 30 calls of 10 ms, or more on a busy machine
    for line in lines:
        assert re.fullmatch(r"Reading: \d+ of 60 samples, 0:00:\d\d left", line)


SHOW = """
import time
from cxr_dist.shard.bar import image_progress
with image_progress("Reading", 40, "samples") as advance:
    for _ in range(40):
        advance()
        time.sleep(0.01)
"""


@pytest.mark.parametrize("columns", [60, 80])
def test_the_bar_fits_a_narrow_terminal(columns):
    terminal, inside = pty.openpty()
    environment = os.environ | {"COLUMNS": str(columns), "TERM": "xterm"}
    subprocess.run([sys.executable, "-c", SHOW], stderr=inside, env=environment, check=True)
    os.close(inside)
    text = os.read(terminal, 65536).decode()
    os.close(terminal)
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text))
    last = [line for line in lines if line.strip()][-1]
    assert "40/40" in last
    assert "samples/s" in last
    assert max(map(len, lines)) <= columns
