"""restarts.jsonl in a run folder: a line for each start of the run and each failure of its tasks under SLURM.

Only failures ("death") count against a run. The job script records them. It is killed along with its tasks in a
preemption, a node failure or `scontrol requeue`, and it records nothing after a run that was asked to stop and saved.
"""

import datetime
import json
from pathlib import Path
from typing import Any

from cxr_dist.errors import UserError
from cxr_dist.files import append_to, json_lines
from cxr_dist.run.slurm_job import restart_count, slurm_job

MOST_DEATHS = 3  # consecutive failures of a job without a new checkpoint
_FILE = "restarts.jsonl"


def note_start(run_dir: Path, step: int) -> None:
    """Record that a run starts, or resumes after this step (rank 0)."""
    _append(run_dir, {"event": "start", "job": slurm_job(), "restart": restart_count(), "step": step})


def note_death(run_dir: Path, job: str, status: int) -> None:
    """Record that the tasks of a job failed (job script).

    Raises UserError if this job has failed `MOST_DEATHS` times in a row, its first start included, without writing a
    new checkpoint. The count starts again for a job that is submitted again.
    """
    restart = restart_count()
    if not (run_dir / "config.yaml").is_file():  # the tasks failed before the run folder was set up
        if restart + 1 >= MOST_DEATHS:
            raise UserError(
                f"the tasks of job {job} ended with status {status}, and after {restart + 1} starts {run_dir} does not "
                "hold a run: not requeued. See the job's log for the reason, fix it and submit the run again"
            )
        return
    step = newest_step(run_dir)
    _append(run_dir, {"event": "death", "job": job, "restart": restart, "step": step, "status": status})
    deaths = [line for line in read(run_dir) if line["event"] == "death" and line["job"] == job]
    last = deaths[-MOST_DEATHS:]
    if len(last) == MOST_DEATHS and {line["step"] for line in last} == {step}:
        statuses = ", ".join(str(line["status"]) for line in last)
        raise UserError(
            f"job {job} has died {MOST_DEATHS} times in a row (status {statuses}) without a checkpoint after step "
            f"{step}: not requeued. See the job's log above each restart for the reason, fix it and submit the run "
            "again to resume it; if it fails before it can save, use a smaller --train.save-every"
        )


def newest_step(run_dir: Path) -> int:
    """Step of the newest checkpoint, from its folder name; 0 if there is none."""
    steps = [path.name.removeprefix("step-") for path in (run_dir / "checkpoints").glob("step-*")]
    return max((int(step) for step in steps if step.isdigit()), default=0)


def read(run_dir: Path) -> list[dict[str, Any]]:
    """All records, oldest first, except lines that a kill cut short."""
    return [line for line in json_lines(run_dir / _FILE) if {"event", "job", "step"} <= line.keys()]


def _append(run_dir: Path, line: dict[str, Any]) -> None:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with append_to(run_dir / _FILE) as file:
        file.write(json.dumps({"time": now} | line).encode() + b"\n")
