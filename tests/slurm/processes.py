"""Find the processes of a SLURM job on this machine by their environment variables, and suspend its ranks."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
from cluster import ENDED, Cluster


def of_job(cluster: Cluster, job: str) -> list[psutil.Process]:
    """Return all processes that this cluster started for the job and that still run."""
    wanted = {"SLURM_CONF": cluster.environment["SLURM_CONF"], "SLURM_JOB_ID": job}
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if wanted.items() <= process.environ().items():
                found.append(process)
    return found


def ranks(cluster: Cluster, job: str) -> list[psutil.Process]:
    """Return the tasks of srun in the order of ranks, without their loader workers."""
    by_rank = {}
    for process in of_job(cluster, job):
        with contextlib.suppress(psutil.Error):
            environment = process.environ()
            # srun itself also has a SLURM_PROCID, that of the batch step
            if environment.get("SLURM_STEP_ID", "").isdigit() and _is_top(process):
                by_rank[int(environment["SLURM_PROCID"])] = process
    return [by_rank[rank] for rank in sorted(by_rank)]


def loader_workers(rank: psutil.Process) -> list[psutil.Process]:
    """Return a rank's DataLoader workers, which are its forks."""
    return [child for child in rank.children() if child.cmdline() == rank.cmdline()]


def batch_shell(cluster: Cluster, job: str) -> psutil.Process:
    """Return the process that slurmd started as the job's script, even after an exec."""
    (shell,) = (process for process in of_job(cluster, job) if _is_top(process) and _is_batch(process))
    return shell


def srun(cluster: Cluster, job: str) -> psutil.Process:
    """Return the srun of the job's step, not the helper that it forks."""
    found = [process for process in of_job(cluster, job) if process.name() == "srun"]
    (top,) = (process for process in found if process.parent() not in found)
    return top


def on_node(cluster: Cluster, job: str, node: str) -> list[psutil.Process]:
    """Return the job's processes on one node and their parents of slurmstepd."""
    here = [p for p in of_job(cluster, job) if p.environ().get("SLURMD_NODENAME") == node]
    return here + list({parent for p in here if (parent := p.parent()) is not None and _is_stepd(parent)})


def is_pending(process: psutil.Process, number: signal.Signals) -> bool:
    """Return whether a signal is pending for a suspended process."""
    with open(f"/proc/{process.pid}/status") as file:
        masks = [int(line.split()[1], 16) for line in file if line.startswith(("SigPnd:", "ShdPnd:"))]
    return any(mask >> (number - 1) & 1 for mask in masks)


@contextmanager
def held(cluster: Cluster, job: str) -> Iterator[list[psutil.Process]]:
    """Suspend the ranks (SIGSTOP) while the block runs, so that a small run cannot end in the meantime.

    Signals stay pending for them; SLURM's own TERM comes with a CONT that wakes them. A rank that the block removes
    from the list stays suspended.
    """
    stopped = ranks(cluster, job)
    assert stopped, f"job {job} has no ranks on this machine"
    for process in stopped:
        process.suspend()
    try:
        yield stopped
    finally:
        for process in stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()


def wait_until(
    condition: Callable[[], bool],
    what: str,
    cluster: Cluster,
    job: str,
    seconds: float = 300,
    every: float = 0.05,
) -> None:
    """Poll until the condition holds; fails if the job ends before, or after `seconds`."""
    deadline, next_look = time.monotonic() + seconds, 0.0
    while not condition():
        if time.monotonic() >= next_look:  # asking SLURM takes longer than most conditions
            assert cluster.job(job)["JobState"] not in ENDED, f"job {job} ended before: {what}"
            next_look = time.monotonic() + 0.5
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(every)


def _is_stepd(process: psutil.Process) -> bool:
    return process.name().startswith("slurmstepd")


def _is_top(process: psutil.Process) -> bool:
    parent = process.parent()
    return parent is not None and _is_stepd(parent)


def _is_batch(process: psutil.Process) -> bool:
    return not process.environ().get("SLURM_STEP_ID", "").isdigit()
