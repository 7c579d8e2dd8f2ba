"""Whether a SLURM job goes back into the queue: rank 0 asks when a run was told to stop, the job's shell when it died.

In: what `scontrol show job` says. Out: at most one `scontrol requeue` for each start, and none for a job that is
cancelled, back in the queue already, or not to be requeued. That last word is kept by SLURM itself (Requeue=0): srun
turns the status of a task that was a moment late in leaving into 143 or 137, so the shell cannot go by it.

    python -m cxr_dist.run.requeue STATUS [RUN_DIR]     (the job's shell, after srun: slurm/supervise.sh)
"""

import os
import re
import subprocess
import sys
from pathlib import Path

from cxr_dist.errors import EXIT_REFUSED, EXIT_STOPPED, UserError
from cxr_dist.run import restarts
from cxr_dist.run.slurm_job import restart_count, scontrol, slurm_job

# The batch shell died, or the time limit came, while tasks were alive. A cancelled job shows no reason.
_OVER_BUT_NOT_CANCELLED = re.compile(r"JobLaunchFailure|NonZeroExitCode|RaisedSignal|TimeLimit")


def wants_requeue(shown: str, restart: int, *, only_preempted: bool = False) -> bool:
    """Whether a job is to be requeued by its start number `restart`, from what `scontrol show job` says.

    A cancelled job is no longer RUNNING (a requeue would bring it back). SLURM counts up Restarts as soon as it has
    requeued, so a start on a node that SLURM has given up leaves the job to the next one.
    """
    facts = dict(re.findall(r"(\w+)=(\S*)", shown))
    if facts.get("Restarts") != str(restart) or facts.get("Requeue") != "1":
        return False
    if only_preempted:
        return facts.get("JobState") == "RUNNING" and facts.get("PreemptTime", "None") != "None"
    is_over = _OVER_BUT_NOT_CANCELLED.match(facts.get("Reason", ""))
    return facts.get("JobState") == "RUNNING" or bool(is_over)


def requeue(*, only_preempted: bool = False) -> str:
    """Requeue this job if that is due; a line for the person who watches, also where SLURM refuses."""
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
    """Tell SLURM that this start of the job is not to be followed by another; does nothing outside job scripts."""
    job = slurm_job()
    if job is None or "CXR_DIST_SUPERVISED" not in os.environ:
        return
    try:
        if wants_requeue(scontrol("--oneliner", "show", "job", job), restart_count()):
            scontrol("update", f"JobId={job}", "Requeue=0")
    except (OSError, subprocess.SubprocessError):
        return  # the shell may then requeue it: it fails the same way, and three times are the most


def after_death(status: int, run_dir: Path | None) -> str:
    """Requeue a job whose tasks have ended with this status; anything but a training run only if it was preempted.

    Raises UserError, and tells SLURM, where the run dies again and again without getting on.
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
        forbid_requeue()  # tasks that srun left behind ask, too
        raise
    return f"the tasks ended with status {status}; {requeue()}"


def main() -> None:
    """For the job's shell. Leaves with the status that the job is to have."""
    status, run_dir = int(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None
    if status not in (EXIT_REFUSED, EXIT_STOPPED):
        try:
            print(after_death(status, run_dir), flush=True)
        except UserError as error:
            print(f"cxr-dist: {error}", file=sys.stderr)
            status = EXIT_REFUSED
        except (OSError, subprocess.SubprocessError) as error:
            print(f"not requeued ({type(error).__name__}): submit it again to resume", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
