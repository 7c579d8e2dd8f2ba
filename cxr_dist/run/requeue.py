"""Requeueing a SLURM job: rank 0 decides when a run was asked to stop, the job script when its tasks died.

The decision follows from the output of `scontrol show job`. A job is requeued at most once per start, and not at all if
it was cancelled, is already queued again, or must not be requeued. The last case is stored in SLURM itself (Requeue=0):
srun reports 143 or 137 for a task that exits slightly late, so the job script cannot rely on the exit status.

    python -m cxr_dist.run.requeue STATUS [RUN_DIR]     (called by the job script after srun: slurm/supervise.sh)
"""

import os
import re
import subprocess
import sys
from pathlib import Path

from cxr_dist.errors import EXIT_INTERRUPTED, EXIT_REFUSED, EXIT_STOPPED, UserError, printable
from cxr_dist.run import restarts
from cxr_dist.run.slurm_job import restart_count, scontrol, slurm_job

# The batch shell died or the time limit was reached while tasks were running. A cancelled job has no reason.
_OVER_BUT_NOT_CANCELLED = re.compile(r"JobLaunchFailure|NonZeroExitCode|RaisedSignal|TimeLimit")


def wants_requeue(shown: str, restart: int, *, only_preempted: bool = False) -> bool:
    """Whether start number `restart` of a job should requeue it, given the output of `scontrol show job`.

    A cancelled job is no longer RUNNING, and requeueing would revive it. SLURM increments Restarts as soon as it
    requeues a job, so a start that still runs on a lost node does not requeue the job again.
    """
    facts = dict(re.findall(r"(\w+)=(\S*)", shown))
    if facts.get("Restarts") != str(restart) or facts.get("Requeue") != "1":
        return False
    if only_preempted:
        return facts.get("JobState") == "RUNNING" and facts.get("PreemptTime", "None") != "None"
    is_over = _OVER_BUT_NOT_CANCELLED.match(facts.get("Reason", ""))
    return facts.get("JobState") == "RUNNING" or bool(is_over)


def requeue(*, only_preempted: bool = False) -> str:
    """Requeue this job if it should be; returns a message for the user, also if SLURM refuses."""
    job = slurm_job()
    assert job is not None
    try:
        shown = scontrol("--oneliner", "show", "job", job)
        if not wants_requeue(shown, restart_count(), only_preempted=only_preempted):
            return f"job {job} is left to SLURM"
        scontrol("requeue", job)
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or type(error).__name__
        return f"job {job} could not be requeued ({reason.strip()}): submit it again to resume"
    return f"requeued job {job}"


def forbid_requeue() -> None:
    """Set Requeue=0, so that SLURM does not start this job again. Does nothing outside our job scripts."""
    job = slurm_job()
    if job is None or "CXR_DIST_SUPERVISED" not in os.environ:
        return
    try:
        if wants_requeue(scontrol("--oneliner", "show", "job", job), restart_count()):
            scontrol("update", f"JobId={job}", "Requeue=0")
    except (OSError, subprocess.SubprocessError):
        return  # the job script may then requeue the job, which fails in the same way at most MOST_DEATHS times


def after_death(status: int, run_dir: Path | None) -> str:
    """Requeue a job whose tasks ended with this status. Without a `run_dir`, only a preempted job is requeued.

    Raises UserError, and sets Requeue=0, if the run died repeatedly without making progress.
    """
    job = slurm_job()
    assert job is not None
    if run_dir is None:
        return requeue(only_preempted=True)
    if not wants_requeue(scontrol("--oneliner", "show", "job", job), restart_count()):
        return f"job {job} is left to SLURM"
    try:
        restarts.note_death(run_dir, job, status)
    except UserError:
        forbid_requeue()  # tasks that srun left behind may also try to requeue
        raise
    return f"the tasks ended with status {status}; {requeue()}"


def main() -> None:
    """Entry point for the job script. Exits with the status that the job should have."""
    status, run_dir = int(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None
    if status not in (EXIT_REFUSED, EXIT_STOPPED, EXIT_INTERRUPTED):
        try:
            print(after_death(status, run_dir), flush=True)
        except UserError as error:
            print(f"cxr-dist: {printable(str(error))}", file=sys.stderr)
            status = EXIT_REFUSED
        except (OSError, subprocess.SubprocessError) as error:
            print(f"not requeued ({type(error).__name__}): submit it again to resume", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
