"""Ranks without imports of their own: processes forked from one that has imported torch and the package once.

They have what torchrun's have: the same variables, a port of their own, and their end, where one of them fails. What
is left out is seven seconds of imports for each, and the launcher's own; tests of launchers start real ones.
"""

import atexit
import multiprocessing
import os
import runpy
import socket
import sys
import tempfile
import time
from contextlib import closing
from multiprocessing.connection import wait
from pathlib import Path

PRELOADED = (
    "cxr_dist.train.assembly",
    "cxr_dist.inference.evaluation",
    "cxr_dist.distributed.zero",
    "transformers.models.bert.modeling_bert",
)
REPOSITORY = str(Path(__file__).resolve().parents[1])  # for scripts that use benchmarks


def run(world_size: int, *command: str | Path, expected: int = 0, seconds: float = 300) -> str:
    """Run `-m MODULE ARGUMENTS` or `SCRIPT ARGUMENTS` in every rank, one thread each; returns what all printed.

    Fails the test where the status is another: 0, or 1 where a rank failed or time was over, which ends the others.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = str(free.getsockname()[1])
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
    """Wait for all; where one fails or time is over, end the others."""
    failed, late = False, time.monotonic() + seconds
    while running := [rank for rank in ranks if rank.exitcode is None]:
        wait([rank.sentinel for rank in running], timeout=1)
        over = time.monotonic() > late
        if (over or any(rank.exitcode for rank in ranks)) and not failed:
            failed = True
            for rank in running:
                rank.terminate()
            late = time.monotonic() + 30  # as long as torchrun gives
        elif over:
            for rank in running:
                rank.kill()
    return int(failed or any(rank.exitcode for rank in ranks))


def _become(command: list[str], environment: dict[str, str], output: str) -> None:
    """Run the command as a fresh interpreter would, with the environment, into the file."""
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
        atexit._run_exitfuncs()  # which a forked process leaves out
