"""The SLURM job that this process belongs to: its id, how often SLURM has started it, and asking SLURM about it."""

import os
import subprocess

_SECONDS = 60


def slurm_job() -> str | None:
    """The id under which SLURM knows this job, ARRAY_TASK for a task of an array; None outside SLURM."""
    if task := os.environ.get("SLURM_ARRAY_TASK_ID"):
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{task}"
    return os.environ.get("SLURM_JOB_ID")


def restart_count() -> int:
    """How often SLURM had started this job before."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0)


def scontrol(*arguments: str) -> str:
    """Standard output of SLURM's scontrol; raises OSError or subprocess.SubprocessError where it fails."""
    command = ["scontrol", *arguments]
    done = subprocess.run(command, check=True, timeout=_SECONDS, capture_output=True, text=True)
    return done.stdout
