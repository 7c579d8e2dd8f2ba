"""A copy of the tiny shards that a test may damage, a function that damages it, and the table of bad inputs."""

import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cxr_dist.format.manifest import load_manifest, open_index


@pytest.fixture
def shards(tiny_shards: Path, tmp_path: Path) -> Path:
    """A copy of `tiny_shards`."""
    return Path(shutil.copytree(tiny_shards, tmp_path / "shards"))


@pytest.fixture
def flip_a_bit():
    """A function flip_a_bit(shards, shard, sample) that flips one bit of a training image in its stored bytes."""

    def flip(folder: Path, shard: int, sample: int) -> None:
        manifest = load_manifest(folder)
        entry = manifest.split("train").shards[shard]
        record = open_index(folder, entry, manifest.num_labels)[sample]
        with (folder / entry.file).open("r+b") as file:
            file.seek(int(record["jpg_offset"]) + 300)
            byte = file.read(1)[0]
            file.seek(-1, 1)
            file.write(bytes([byte ^ 1]))

    return flip


OUTCOMES = ("refused in one line", "left out and counted", "read as it should be", "noticed")
_PROPERTY = "bad input"


@pytest.fixture
def tried(record_property: Callable[[str, object], None]) -> Callable[[str, str], None]:
    """A function tried(input, outcome) that puts a bad input, and what came of it, into the table of the summary."""

    def say(bad_input: str, outcome: str) -> None:
        assert outcome in OUTCOMES
        record_property(_PROPERTY, (outcome, bad_input))

    return say


@pytest.fixture
def no_hang() -> Iterator[None]:
    """Fail a test that waits for more than 20 seconds, for example for the other end of a FIFO."""

    def fail(*_: object) -> None:
        pytest.fail("it hangs")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print how many bad inputs were tried, by outcome; with -v also which."""
    passed = (report for report in terminalreporter.stats.get("passed", []) if report.when == "call")
    rows = [value for report in passed for name, value in report.user_properties if name == _PROPERTY]
    if rows:
        counts = Counter(outcome for outcome, _ in rows)
        terminalreporter.section("bad inputs")
        terminalreporter.line(", ".join(f"{counts[name]} {name}" for name in OUTCOMES) + f": {len(rows)} in all")
        for outcome, bad_input in sorted(rows) if terminalreporter.verbosity > 0 else []:
            terminalreporter.line(f"{outcome}: {bad_input}")
