"""A loader ends its own workers, and no other child process of the program that uses it."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("host_program.py")


@pytest.mark.parametrize(("ending", "last_line"), [("end", []), ("raise", ["RuntimeError: an error of the program"])])
def test_a_program_keeps_its_own_children_and_its_loaders_keep_none(tiny_shards, tmp_path, ending, last_line):
    """This runs a real program, which takes seconds to import torch, because the promise is about its exit."""
    command = [sys.executable, PROGRAM, tiny_shards, tmp_path, ending]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stderr.splitlines()[-1:] == last_line
    assert (tmp_path / "finished").exists()  # the child was terminated by multiprocessing, and not killed
    workers = [int(pid) for pid in done.stdout.split()]
    assert len(workers) == 6
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
