"""Starts ranks quickly, by forking a process that has already imported torch and the package.

As with torchrun, the ranks have the environment variables of a process group and a port of their own, and all end if
one fails. This saves the imports of each rank and of the launcher. Tests of launchers start real ones.
"""

import atexit
import multiprocessing
import os
import runpy
import sys
import tempfile
import time
from multiprocessing.connection import wait
from pathlib import Path

from free_ports import free_ports

PRELOADED = (
    "cxr_dist.train.assembly",
    "cxr_dist.inference.evaluation",
    "cxr_dist.distributed.zero",
    "transformers.models.bert.modeling_bert",
)
REPOSITORY = str(Path(__file__).resolve().parents[1])  # for scripts that import benchmarks


def run(world_size: int, *command: str | Path, expected: int = 0, seconds: float = 300) -> str:
    """Run `-m MODULE ARGUMENTS` or `SCRIPT ARGUMENTS` in every rank, with one thread each; returns their output.

    Fails the test unless the status is `expected`: 0, or 1 if a rank failed or did not end in time. Then the others are
    ended too.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    (port,) = map(str, free_ports())
    size = str(world_size)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    with tempfile.NamedTemporaryFile("r") as output:
        ranks = []
        for rank in map(str, range(world_size)):
            environment = os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"}
            arguments = ([str(word) for word in command], environment, output.name)
            ranks.append(context.Process(target=_become, args=arguments))
            ranks[-1].start()
        status = _end(ranks, seconds)
        printed = output.read()
    assert status == expected, printed
    return printed


def _end(ranks: list[multiprocessing.process.BaseProcess], seconds: float) -> int:
    """Wait for all ranks. If one fails or the time is over, end the others."""
    failed, late = False, time.monotonic() + seconds
    while running := [rank for rank in ranks if rank.exitcode is None]:
        wait([rank.sentinel for rank in running], timeout=1)
        over = time.monotonic() > late
        if (over or any(rank.exitcode for rank in ranks)) and not failed:
            failed = True
            for rank in running:
                rank.terminate()
            late = time.monotonic() + 30  # the same grace period as torchrun's
        elif over:
            for rank in running:
                rank.kill()
    return int(failed or any(rank.exitcode for rank in ranks))


def _become(command: list[str], environment: dict[str, str], output: str) -> None:
    """Run the command with this environment as a new interpreter would, and write its output to the file."""
    os.environ.clear()
    os.environ.update(environment)
    descriptor = os.open(output, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    try:
        if command[0] == "-m":
            sys.argv = command[1:]
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = command
            sys.path[:0] = [str(Path(command[0]).resolve().parent), REPOSITORY]
            runpy.run_path(command[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # which multiprocessing skips in a forked process
