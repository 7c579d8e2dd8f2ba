"""The SLURM job that this process belongs to: its id, its number of restarts, and queries to SLURM about it."""

import os
import subprocess

_TIMEOUT_SECONDS = 60


def slurm_job() -> str | None:
    """SLURM's id of this job, ARRAY_TASK for a task of a job array; None outside SLURM."""
    if task := os.environ.get("SLURM_ARRAY_TASK_ID"):
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{task}"
    return os.environ.get("SLURM_JOB_ID")


def restart_count() -> int:
    """How many times SLURM has restarted this job."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0)


def scontrol(*arguments: str) -> str:
    """Standard output of SLURM's scontrol; raises OSError or subprocess.SubprocessError if it fails."""
    command = ["scontrol", *arguments]
    done = subprocess.run(command, check=True, timeout=_TIMEOUT_SECONDS, capture_output=True, text=True)
    return done.stdout
