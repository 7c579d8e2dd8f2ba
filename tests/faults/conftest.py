"""A copy of the tiny shards that a test may damage, a function that damages it, and the table of bad inputs."""

import dataclasses
import os
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cxr_dist.config.named import named_run
from cxr_dist.format.manifest import load_manifest, open_index
from cxr_dist.inference.evaluation import evaluate_runs
from cxr_dist.model.monte_carlo import McDropout
from cxr_dist.run.preempt import StopRequest
from cxr_dist.train.assembly import train

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


@pytest.fixture
def shards(tiny_shards: Path, tmp_path: Path) -> Path:
    """A copy of `tiny_shards`."""
    return Path(shutil.copytree(tiny_shards, tmp_path / "shards"))


@pytest.fixture(scope="session")
def small_run(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fused run of two steps on `tiny_shards`, evaluated without dropout passes; tests must not change it."""
    demo, handlers = named_run("demo"), {name: signal.getsignal(name) for name in STOPPING}
    data = dataclasses.replace(
        demo.data, shards=str(tiny_shards), global_batch=16, micro_batch=4, image_size=32, max_tokens=16, workers=0
    )
    folder = tmp_path_factory.mktemp("small") / "run"
    settings = dataclasses.replace(demo.train, max_steps=2)
    train(dataclasses.replace(demo, data=data, train=settings, out=str(folder)), StopRequest(0))
    evaluate_runs([folder], folder, "test", McDropout())
    for name, handler in handlers.items():
        signal.signal(name, handler)
    return folder


@pytest.fixture
def run_copy(small_run: Path, tmp_path: Path) -> Path:
    """A copy of `small_run` that a test may damage."""
    return Path(shutil.copytree(small_run, tmp_path / "run", symlinks=True))


@pytest.fixture
def read_only() -> Iterator[Callable[[Path], None]]:
    """A function read_only(folder) that makes a folder and all below it read-only, for root by a bind mount."""
    done: list[Path] = []

    def protect(folder: Path) -> None:
        if os.geteuid():
            for path in (folder, *folder.rglob("*")):
                path.chmod(0o500 if path.is_dir() else 0o400)
        else:
            for options in (["--bind", folder], ["-o", "remount,ro,bind"]):
                if subprocess.run(["mount", *options, folder], capture_output=True).returncode:
                    pytest.skip("root needs a bind mount to make a folder read-only")
        done.append(folder)

    yield protect
    for folder in done:
        if os.geteuid():
            for path in (folder, *folder.rglob("*")):
                path.chmod(0o700)
        else:
            subprocess.run(["umount", folder], check=True)


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
