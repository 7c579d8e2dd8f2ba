"""The processes of a SLURM job on this machine, found by what SLURM put into their environment.

In: a cluster and a job id. Out: psutil processes; also a way to hold the ranks still while something happens.
"""

import contextlib
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
            environment, parent = process.environ(), process.parent()
            # srun itself has SLURM_PROCID, too: the batch step's
            is_task = environment.get("SLURM_STEP_ID", "").isdigit()
            if is_task and parent is not None and parent.name().startswith("slurmstepd"):
                by_rank[int(environment["SLURM_PROCID"])] = process
    return [by_rank[rank] for rank in sorted(by_rank)]


@contextmanager
def held(cluster: Cluster, job: str) -> Iterator[None]:
    """Stop the ranks (SIGSTOP) for as long as the block runs: a small run cannot end in the meantime.

    Signals that come meanwhile wait for them; SLURM's own TERM comes with a CONT that wakes them.
    """
    stopped = ranks(cluster, job)
    assert stopped, f"job {job} has no ranks on this machine"
    for process in stopped:
        process.suspend()
    try:
        yield
    finally:
        for process in stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()


def wait_until(condition: Callable[[], bool], what: str, cluster: Cluster, job: str, seconds: float) -> None:
    """Poll until the condition holds; fails where the job ends before, or after so long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert cluster.job(job)["JobState"] not in ENDED, f"job {job} ended before: {what}"
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)
