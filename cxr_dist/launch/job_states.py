"""States of submitted jobs, from SLURM's queue without an accounting database, or from submitit for other jobs."""

import shutil
import subprocess
import time

import submitit

from cxr_dist.errors import UserError

GOES_ON = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED", "SUSPENDED", "STAGE_OUT")
_POLL_SECONDS = 1.0


def job_state(job: submitit.Job[str]) -> str:
    """Return SLURM's name of the job's state; submitit's name for jobs that are not SLURM's."""
    if not isinstance(job, submitit.SlurmJob):
        return str(job.state)
    command = ["scontrol", "--oneliner", "show", "job", job.job_id]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60)
    words = [word for word in shown.stdout.split() if word.startswith("JobState=")]
    return words[0].removeprefix("JobState=") if words else "UNKNOWN"


def queue_states(patience_seconds: float = 0) -> dict[str, str]:
    """Return job id (JOB_TASK in an array) -> SLURM's state, for all of the user's jobs that SLURM still knows.

    Raises UserError if there is no SLURM, or if it has not answered for `patience_seconds`.
    """
    if shutil.which("squeue") is None:
        raise UserError("no squeue on this machine: run the command on a machine with SLURM")
    command = ["squeue", "--me", "--noheader", "--array", "--states=all", "--format=%i %T"]
    deadline = time.monotonic() + patience_seconds
    while True:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if asked.returncode == 0:
            return dict(line.split() for line in asked.stdout.splitlines())
        if time.monotonic() > deadline:
            reason = asked.stderr.strip().rpartition("\n")[2]
            raise UserError(f"squeue fails ({reason}): call the same command again later")
        time.sleep(_POLL_SECONDS)


def wait(job: submitit.Job[str], minutes: float) -> bool:
    """Wait for the job to end and return whether the run finished; raises UserError at the deadline."""
    deadline = time.monotonic() + 60 * minutes
    while (state := job_state(job)) in GOES_ON:
        if time.monotonic() > deadline:
            raise UserError(f"job {job.job_id} is still {state} after {minutes:g} minutes; it continues")
        time.sleep(_POLL_SECONDS)
    print(f"state {state}")
    if state == "FINISHED":  # a local job, whether it succeeded or failed
        return job.exception() is None
    return state == "COMPLETED"
