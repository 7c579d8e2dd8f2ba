"""The processes of a SLURM job on this machine, found by what SLURM put into their environment.

In: a cluster and a job id. Out: psutil processes; also a way to hold the ranks still while something happens.
"""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
from cluster import ENDED, Cluster


def of_job(cluster: Cluster, job: str) -> list[psutil.Process]:
    """All processes that this cluster started for the job and that still run."""
    wanted = {"SLURM_CONF": cluster.environment["SLURM_CONF"], "SLURM_JOB_ID": job}
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if wanted.items() <= process.environ().items():
                found.append(process)
    return found


def ranks(cluster: Cluster, job: str) -> list[psutil.Process]:
    """The tasks of srun, in order of rank; not their loader workers."""
    by_rank = {}
    for process in of_job(cluster, job):
        with contextlib.suppress(psutil.Error):
            environment = process.environ()
            # srun itself has SLURM_PROCID, too: the batch step's
            if environment.get("SLURM_STEP_ID", "").isdigit() and _is_top(process):
                by_rank[int(environment["SLURM_PROCID"])] = process
    return [by_rank[rank] for rank in sorted(by_rank)]


def loader_workers(rank: psutil.Process) -> list[psutil.Process]:
    """A rank's DataLoader workers: its forks."""
    return [child for child in rank.children() if child.cmdline() == rank.cmdline()]


def batch_shell(cluster: Cluster, job: str) -> psutil.Process:
    """What slurmd started as the job's script, whatever it has become by exec."""
    (shell,) = (process for process in of_job(cluster, job) if _is_top(process) and _is_batch(process))
    return shell


def srun(cluster: Cluster, job: str) -> psutil.Process:
    """The srun of the job's step; not the helper that it forks."""
    found = [process for process in of_job(cluster, job) if process.name() == "srun"]
    (top,) = (process for process in found if process.parent() not in found)
    return top


def on_node(cluster: Cluster, job: str, node: str) -> list[psutil.Process]:
    """The job's processes on one node, and the slurmstepd above them."""
    here = [p for p in of_job(cluster, job) if p.environ().get("SLURMD_NODENAME") == node]
    return here + list({parent for p in here if (parent := p.parent()) is not None and _is_stepd(parent)})


def is_pending(process: psutil.Process, number: signal.Signals) -> bool:
    """Whether a signal waits for a process that is held still."""
    with open(f"/proc/{process.pid}/status") as file:
        masks = [int(line.split()[1], 16) for line in file if line.startswith(("SigPnd:", "ShdPnd:"))]
    return any(mask >> (number - 1) & 1 for mask in masks)


@contextmanager
def held(cluster: Cluster, job: str) -> Iterator[list[psutil.Process]]:
    """Stop the ranks (SIGSTOP) for as long as the block runs: a small run cannot end in the meantime.

    Signals that come meanwhile wait for them; SLURM's own TERM comes with a CONT that wakes them. A rank that the
    block takes out of the list stays stopped.
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
    """Poll until the condition holds; fails where the job ends before, or after so long."""
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
