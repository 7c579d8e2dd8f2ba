"""restarts.jsonl in a run folder: a line for each start of the run and for each death of its tasks under SLURM.

Only deaths count against a run: the job's shell notes them, and it is not there to do so when SLURM itself takes a
job's place (a preemption, a lost node, `scontrol requeue`), nor does it where the run was told to stop and saved.
"""

import datetime
import json
from pathlib import Path
from typing import Any

from cxr_dist.errors import UserError
from cxr_dist.run.slurm_job import restart_count, slurm_job

MOST_DEATHS = 3  # of a job, in a row, with no checkpoint later than the one before
_FILE = "restarts.jsonl"


def note_start(run_dir: Path, step: int) -> None:
    """A run starts, or goes on after this step (rank 0)."""
    _append(run_dir, {"event": "start", "job": slurm_job(), "restart": restart_count(), "step": step})


def note_death(run_dir: Path, job: str, status: int) -> None:
    """The tasks of a job died (the job's shell).

    Raises UserError where it was the third time in a row that this job came no further than the same checkpoint. The
    first start counts. Another job, submitted by hand, counts anew.
    """
    restart = restart_count()
    if not (run_dir / "config.yaml").is_file():  # it died before the run had a folder to write into
        if restart + 1 >= MOST_DEATHS:
            raise UserError(
                f"the tasks of job {job} ended with status {status}, and after {restart + 1} starts {run_dir} holds "
                "no run: not requeued. Its log holds the reason. Mend it and submit the run again"
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
            f"{step}: not requeued. Its log holds the reason, above each restart. Mend it and submit the run again, "
            "which goes on from there; one that lives too short to save needs a smaller --train.save-every"
        )


def newest_step(run_dir: Path) -> int:
    """Step of the newest checkpoint, by its name; 0 without one."""
    found = [path.name.removeprefix("step-") for path in (run_dir / "checkpoints").glob("step-*")]
    return max((int(step) for step in found if step.isdigit()), default=0)


def read(run_dir: Path) -> list[dict[str, Any]]:
    """All lines, oldest first, but for one that a kill cut short."""
    lines = []
    path = run_dir / _FILE
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


def _append(run_dir: Path, line: dict[str, Any]) -> None:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with (run_dir / _FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"time": now} | line) + "\n")
