"""`cxr-dist shard --slurm N`: shards written by the tasks of a SLURM job array, and put together here.

In: a recipe, a source, the tasks' size. Out: the bytes that one machine would write. The shard folder is the state:
a task is done when its shards have their receipts, whatever SLURM says of it, and one that ended before is
submitted again alone. This process only waits; where it is killed, the same command takes over.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import submitit

from cxr_dist.config.slurm import SlurmResources
from cxr_dist.errors import UserError
from cxr_dist.format.manifest import Manifest
from cxr_dist.shard.checks import FailureLimit
from cxr_dist.shard.deal import PlannedShard, ShardPlan
from cxr_dist.shard.readers import check_recipe
from cxr_dist.shard.receipt import count_left_out
from cxr_dist.shard.recipe import Recipe
from cxr_dist.shard.write import receipts, write_part, write_shards

_ATTEMPTS = 3  # of a task that does not finish one shard
_SHORTEST_POLL, _LONGEST_POLL = 0.5, 15.0  # seconds
_PATIENCE = 600.0  # seconds that SLURM may leave questions unanswered


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """What runs in a task: picklable, and nothing but where to read and write, and which shards."""

    recipe: Recipe
    source: Path | None
    out: Path
    identity: str
    stems: tuple[str, ...]
    workers: int
    allow_left_out: float

    def __call__(self) -> None:
        """Write the shards that are not there yet; a UserError is one line of the log, and status 2."""
        try:
            write_part(
                self.recipe,
                self.source,
                self.out,
                identity=self.identity,
                stems=self.stems,
                workers=self.workers,
                allow_left_out=self.allow_left_out,
            )
        except UserError as error:
            print(f"cxr-dist: {error}", file=sys.stderr)
            sys.exit(2)

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """submitit's, for the warning before the time limit: the same again, which skips what is whole."""
        return submitit.helpers.DelayedSubmission(self)

    __submitit_checkpoint__ = checkpoint  # the gate looks for one name, the call for the other


@dataclass(frozen=True, kw_only=True)
class _Attempt:
    """A task of the array in the queue, or running."""

    task: ShardTask
    futile: int = 0
    """How often in a row it has ended without finishing a shard."""


def write_shards_by_array(
    recipe: Recipe,
    source: Path | None,
    out: Path,
    *,
    tasks: int,
    resources: SlurmResources,
    allow_left_out: float = 0.01,
) -> Manifest:
    """`write_shards`, with the films read and the shards written by a job array of `tasks` tasks.

    Waits for the jobs of an earlier call with the same `out`. Raises UserError as `write_shards` does, without
    SLURM's commands, and where a task ends again and again without finishing a shard.
    """
    check_recipe(recipe)
    absent = [program for program in ("sbatch", "srun", "squeue", "scancel") if shutil.which(program) is None]
    if absent:
        raise UserError(
            f"--slurm needs {', '.join(absent)}, which this machine has not: call it on a login node"
        )
    if tasks < 1:
        raise UserError(f"--slurm is the number of tasks, 1 or more, not {tasks}")
    source, out = source and source.resolve(), out.resolve()
    array = _Array(name=f"cxr-shard-{hashlib.sha256(os.fsencode(out)).hexdigest()[:8]}", resources=resources)
    try:
        array.wait_for_earlier()
        fill = partial(_fill, array=array, source=source, tasks=tasks, allow_left_out=allow_left_out)
        return write_shards(
            recipe, source, out, workers=resources.cpus_per_task, allow_left_out=allow_left_out, fill=fill
        )
    except KeyboardInterrupt:
        raise UserError(
            f"left the jobs {array.name} to SLURM: the same command waits for them and ends"
        ) from None


def _fill(
    plan: ShardPlan,
    out: Path,
    shards: Sequence[PlannedShard],
    limit: FailureLimit,
    *,
    array: "_Array",
    source: Path | None,
    tasks: int,
    allow_left_out: float,
) -> None:
    whole = ShardTask(
        recipe=plan.recipe,
        source=source,
        out=out,
        identity=plan.identity,
        stems=tuple(shard.stem for shard in shards),
        workers=array.resources.cpus_per_task,
        allow_left_out=allow_left_out,
    )
    parts = [replace(whole, stems=whole.stems[number::tasks]) for number in range(tasks)]
    running = array.submit([_Attempt(task=part) for part in parts if part.stems])
    try:
        while running:
            ended = array.next_ended(running)
            done = receipts(plan, out)
            limit.check(plan.selection.left_out + count_left_out(done.values()))
            again = [_again(job_id, running.pop(job_id), done, array.resources.logs) for job_id in ended]
            running |= array.submit([attempt for attempt in again if attempt is not None])
    except UserError:
        array.cancel(running)
        raise


def _again(job_id: str, attempt: _Attempt, done: Iterable[str], logs: Path) -> _Attempt | None:
    """What is left of a task that has ended; raises UserError where it stays as much as it was."""
    task = attempt.task
    left = tuple(stem for stem in task.stems if stem not in done)
    futile = attempt.futile + 1 if left == task.stems else 0
    if futile == _ATTEMPTS:
        raise UserError(
            f"job {job_id} ended {_ATTEMPTS} times without finishing one of its {len(left)} shards: see its log in "
            f"{logs}, and call the same command again"
        )
    if left:
        print(
            f"job {job_id} ended with {len(left)} of {len(task.stems)} shards missing: submitted again",
            flush=True,
        )
    return _Attempt(task=replace(task, stems=left), futile=futile) if left else None


@dataclass(kw_only=True)
class _Array:
    """The jobs of one shard folder, found again by their name."""

    name: str
    resources: SlurmResources

    def submit(self, attempts: Sequence[_Attempt]) -> dict[str, _Attempt]:
        """One job array of these tasks; job id -> attempt."""
        if not attempts:
            return {}
        executor = _executor(self.name, self.resources, len(attempts))
        with executor.batch():
            jobs = [executor.submit(attempt.task) for attempt in attempts]
        num_shards = sum(len(attempt.task.stems) for attempt in attempts)
        first = jobs[0].job_id.split("_")[0]
        print(
            f"job {first} ({self.name}): {num_shards} shards in {len(jobs)} tasks; logs {self.resources.logs}",
            flush=True,
        )
        return {job.job_id: attempt for job, attempt in zip(jobs, attempts, strict=True)}

    def next_ended(self, jobs: Iterable[str]) -> list[str]:
        """Wait until at least one of the jobs is neither queued nor running."""
        known = list(jobs)
        seconds = _SHORTEST_POLL
        while not (ended := [job for job in known if job not in self._active()]):
            time.sleep(seconds)
            seconds = min(1.5 * seconds, _LONGEST_POLL)
        return ended

    def wait_for_earlier(self) -> None:
        """Wait for what an earlier call left in the queue."""
        while earlier := self._active():
            print(f"waiting for {len(earlier)} tasks of an earlier call ({self.name})", flush=True)
            self.next_ended(earlier)

    def cancel(self, jobs: Iterable[str]) -> None:
        """End these jobs; what they finished stays."""
        if ids := list(jobs):
            subprocess.run(["scancel", *ids], capture_output=True, timeout=60)

    def _active(self) -> list[str]:
        """Ids of the jobs that are queued or running; asks until SLURM answers."""
        command = ["squeue", "--me", "--noheader", "--array", f"--name={self.name}", "--format=%i"]
        deadline = time.monotonic() + _PATIENCE
        while True:
            asked = subprocess.run(command, capture_output=True, text=True)
            if asked.returncode == 0:
                return asked.stdout.split()
            if time.monotonic() > deadline:
                reason = asked.stderr.strip().rpartition("\n")[2]
                raise UserError(f"squeue fails ({reason}): call the same command again later")
            time.sleep(_LONGEST_POLL)


def _executor(name: str, resources: SlurmResources, tasks: int) -> submitit.AutoExecutor:
    resources.logs.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Not counted: a task that reaches its time limit has finished some shards, or is given up by `_again`.
    executor = submitit.AutoExecutor(resources.logs.resolve(), cluster="slurm", slurm_max_num_timeout=1000)
    executor.update_parameters(
        name=name,
        nodes=1,
        tasks_per_node=1,
        slurm_array_parallelism=tasks,
        slurm_setup=["export OMP_NUM_THREADS=1"],  # the processes are the parallelism
        **resources.submitit_parameters("--kill-on-bad-exit=1"),
    )
    return executor
