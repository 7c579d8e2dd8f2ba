"""A full /dev/shm and a killed loader worker end a stream at once, with a line that says what happened."""

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from lane_batches import lane_batches

from cxr_dist.format.manifest import load_manifest

PROGRAM = """
import dataclasses, sys
from pathlib import Path
from cxr_dist.config.named import named_run
from cxr_dist.data.loader import training_batches, training_plan
from cxr_dist.errors import UserError
from cxr_dist.format.manifest import load_manifest

data = dataclasses.replace(
    named_run("demo").data, shards=sys.argv[1], global_batch=16, micro_batch=16, image_size=256, workers=2
)
manifest = load_manifest(Path(data.shards))
options = {"lanes": range(1), "first_step": 0, "tokenizer": None, "with_images": True}
try:
    stream = training_batches(data, manifest, training_plan(data, manifest, 0), **options)
    kept = [next(stream) for _ in range(40)]
except UserError as error:
    print(error)
    sys.exit(2)
"""


def test_a_tiny_dev_shm_ends_the_stream_with_the_line_of_the_doctor(tiny_shards, tmp_path):
    """Takes about 6 s: the program runs in a mount namespace of its own, and imports torch."""
    (tmp_path / "program.py").write_text(textwrap.dedent(PROGRAM))
    script = 'mount -t tmpfs -o size=4m tmpfs /dev/shm || exit 77; exec "$@"'
    command = ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, tmp_path / "program.py", tiny_shards]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("a small /dev/shm needs root and a mount namespace")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "no space left in /dev/shm, through which loader workers pass their batches: enlarge it" in done.stdout


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_worker_is_named(tiny_config, tiny_shards, killed):
    """torch's handler of SIGCHLD raises its own line, with the same words, if it comes first."""
    before = set(_workers())
    data = dataclasses.replace(tiny_config.data, workers=2)
    stream = lane_batches(data, load_manifest(tiny_shards), 0, steps=10_000)
    next(stream)
    deadline = time.monotonic() + 30
    while len(workers := sorted(set(_workers()) - before)) < 2:  # the other worker may still be starting
        assert time.monotonic() < deadline
    worker = workers[killed]
    threading.Timer(0.3, os.kill, (worker, signal.SIGKILL)).start()
    with pytest.raises(RuntimeError, match=rf"oader worker (\d )?\(pid {worker}\) (was|is) killed by (signal|SIGKILL)"):
        for _ in stream:
            pass


def _workers() -> list[int]:
    """The process ids of the loader workers of this process: its children that ignore SIGUSR2."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(os.getpid())], capture_output=True, text=True).stdout
    ignored = {}
    for pid in map(int, listed.split()):
        try:
            with open(f"/proc/{pid}/status") as file:
                ignored[pid] = next(int(line.split()[1], 16) for line in file if line.startswith("SigIgn"))
        except OSError:
            continue
    return [pid for pid, mask in ignored.items() if mask >> (signal.SIGUSR2 - 1) & 1]
