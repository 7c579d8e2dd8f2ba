"""Run small jobs of two or three forked ranks under the watchdog, all at the same time and each disturbed differently.

    python watched_ranks.py FOLDER [CASE …]
    python watched_ranks.py orphan        one rank that does nothing until it is asked to exit
    python watched_ranks.py alone         one rank that waits for data forever

A rank writes to FOLDER/CASE.RANK.log; FOLDER/CASE.json has exit statuses and process ids in the order of ranks.
Torch is imported once, before the forks, when it has no threads.
"""

import json
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import torch
import torch.distributed

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from free_ports import free_ports

from cxr_dist.data.workers import end_with_parent
from cxr_dist.distributed.backend import start, stop
from cxr_dist.distributed.reduce import sum_over_ranks
from cxr_dist.distributed.watch.progress import advance, enter
from cxr_dist.distributed.watch.watchdog import watching
from cxr_dist.distributed.world import World
from cxr_dist.errors import UserError

# Ranks that must not be ended have a timeout that even a busy machine does not reach.
TIMEOUT_SECONDS, PATIENT_SECONDS, WORKER_SECONDS, DISTURBED_STEP, STEPS = 8.0, 24.0, 600, 3, 5
PATIENT = {"finish", "slow_0"}
# Name: (ranks that start, world size). A name ends in the rank that is disturbed.
CASES = {
    "finish": ((0, 1), 2),
    "stop_0": ((0, 1), 2),
    "stop_1": ((0, 1, 2), 3),
    "kill_0": ((0, 1), 2),
    "kill_1": ((0, 1, 2), 3),
    "read_1": ((0, 1, 2), 3),
    "leave_1": ((0, 1, 2), 3),
    "fail_1": ((0, 1, 2), 3),
    "refuse_1": ((0, 1, 2), 3),
    "refuse_0": ((0, 1), 2),
    "skip_1": ((0, 1, 2), 3),
    "miss_1": ((0,), 2),
    "port": ((0,), 2),
    "miss_0": ((1,), 2),
    "slow_0": ((0, 1), 2),
}


def run(case, rank, world_size):
    """Do what training does, in small: a phase without communication, then a sum over ranks."""
    world = World(rank=rank, world_size=world_size)
    timeout_minutes = (PATIENT_SECONDS if case in PATIENT else TIMEOUT_SECONDS) / 60
    try:
        with watching(world, timeout_minutes):
            start(world, timeout_minutes)
            group = torch.distributed.new_group() if case.startswith("skip") else None
            for step in range(1, STEPS + 1):
                enter("waiting for data", step)
                if step == DISTURBED_STEP and case.endswith(f"_{rank}"):
                    disturb(case.split("_")[0], group)
                    if case.startswith("leave"):
                        break
                time.sleep(0.5)
                enter("forward and backward")
                sum_over_ranks(torch.ones(1))
    finally:
        stop()


def disturb(kind, group):
    time.sleep(1)  # so that a beat is sent from here
    if kind == "stop":
        start_worker(end_with_parent, time.sleep)
        os.kill(os.getpid(), signal.SIGSTOP)
    elif kind == "kill":
        start_worker(time.sleep)  # outlives the rank and has copies of its open connections
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "read":
        start_worker(time.sleep).join()
    elif kind == "fail":
        raise RuntimeError("made for the test")
    elif kind == "refuse":
        raise UserError("made for the test")
    elif kind == "skip":
        enter("validation")
        torch.distributed.all_reduce(torch.ones(1), group=group)  # the others are in another collective
    elif kind == "slow":
        for _ in range(int(1.25 * PATIENT_SECONDS)):
            time.sleep(1)
            advance()


def start_worker(*calls):
    """Fork a process that sleeps like a loader worker."""

    def work():
        for call in calls:
            call(*[WORKER_SECONDS] if call is time.sleep else [])

    worker = multiprocessing.get_context("fork").Process(target=work, daemon=True)
    worker.start()
    print(f"worker {worker.pid}", flush=True)
    return worker


def rank_process(case, rank, world_size, port, folder):
    """Run a rank in a forked child; never returns."""
    log = os.open(folder / f"{case}.{rank}.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=str(port))
    try:
        run(case, rank, world_size)
    except UserError as error:
        print(f"message: {error}", flush=True)
        os._exit(2)
    except BaseException:
        os._exit(1)
    os._exit(0)


def watch_case(case, port, folder):
    """Start the case's ranks and record how they end."""
    ranks, world_size = CASES[case]
    taken = socket.create_server(("", port)) if case == "port" else None
    pids = []
    for rank in ranks:
        pids.append(os.fork())
        if pids[-1] == 0:
            rank_process(case, rank, world_size, port, folder)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    (folder / f"{case}.json").write_text(json.dumps({"statuses": statuses, "pids": pids}))
    if taken:
        taken.close()
    os._exit(0)


def orphan():
    asked = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked.set())
    with watching(World(), timeout_minutes=1):
        print(os.getpid(), flush=True)
        while not asked.is_set():
            time.sleep(0.1)
    print("left", flush=True)


def alone():
    with watching(World(), timeout_minutes=2 / 60):
        enter("waiting for data", 3)
        time.sleep(600)


def main(folder, *chosen):
    if folder == "orphan":
        return orphan()
    if folder == "alone":
        return alone()
    watchers = []
    cases = chosen or list(CASES)
    for case, port in zip(cases, free_ports(len(cases)), strict=True):
        watchers.append(os.fork())
        if watchers[-1] == 0:
            watch_case(case, port, Path(folder))
    return [os.waitpid(watcher, 0) for watcher in watchers]


if __name__ == "__main__":
    main(*sys.argv[1:])
