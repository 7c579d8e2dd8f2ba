"""`cxr-dist shard --slurm N`: the tasks of a SLURM job array write the shards, and this process puts them together.

The result has the same bytes as on one machine. The shard folder is the only state: a task is done when its shards have
their receipts, whatever SLURM reports, and a task that ended before is submitted again by itself. This process only
waits; if it is killed, the same command takes over.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import submitit

from cxr_dist.config.slurm import SlurmResources
from cxr_dist.errors import UserError, printable
from cxr_dist.format.manifest import Manifest
from cxr_dist.shard.checks import FailureLimit
from cxr_dist.shard.deal import PlannedShard, ShardPlan
from cxr_dist.shard.readers import check_recipe
from cxr_dist.shard.receipt import count_left_out
from cxr_dist.shard.recipe import Recipe
from cxr_dist.shard.write import receipts, write_part, write_shards

_ATTEMPTS = 3  # times in a row that a task may end without finishing a shard
_SHORTEST_POLL, _LONGEST_POLL = 0.5, 15.0  # seconds
_PATIENCE = 600.0  # seconds for which SLURM may fail to answer


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """The job of one task: it can be pickled, and holds only paths, settings and the names of its shards."""

    recipe: Recipe
    source: Path | None
    out: Path
    identity: str
    stems: tuple[str, ...]
    workers: int
    allow_left_out: float
    futile: int = 0
    """How often in a row the task has ended without finishing a shard."""

    def __call__(self) -> None:
        """Write the shards that are still missing; a UserError becomes one line of the log and exit status 2."""
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
            print(f"cxr-dist: {printable(str(error))}", file=sys.stderr)
            sys.exit(2)

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Submit the same task again: submitit calls this at the warning before the time limit."""
        return submitit.helpers.DelayedSubmission(self)

    __submitit_checkpoint__ = checkpoint  # submitit checks for one of the two names and calls the other


def write_shards_by_array(
    recipe: Recipe,
    source: Path | None,
    out: Path,
    *,
    tasks: int,
    resources: SlurmResources,
    allow_left_out: float = 0.01,
) -> Manifest:
    """Do what `write_shards` does, but read the images and write the shards in a job array of `tasks` tasks.

    Waits for the jobs of an earlier call with the same `out`. Raises UserError as `write_shards` does, if SLURM's
    commands are missing or fail, and if a task ends repeatedly without finishing a shard.
    """
    check_recipe(recipe)
    absent = [program for program in ("sbatch", "srun", "squeue", "scancel") if shutil.which(program) is None]
    if absent:
        raise UserError(
            f"--slurm needs {', '.join(absent)}, which this machine does not have: run the command on a login node"
        )
    if tasks < 1:
        raise UserError(f"--slurm is the number of tasks and must be 1 or more, not {tasks}")
    source, out = source and source.resolve(), out.resolve()
    name = f"cxr-shard-{hashlib.sha256(os.fsencode(out)).hexdigest()[:8]}"
    array = _Array(name=name, resources=resources, source=source, tasks=tasks, allow_left_out=allow_left_out)
    try:
        array.wait_for_earlier()
        return write_shards(
            recipe,
            source,
            out,
            workers=resources.cpus_per_task,
            allow_left_out=allow_left_out,
            fill=array.fill,
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"the jobs {name} stay with SLURM: the same command waits for them and finishes the folder"
        ) from None


@dataclass(kw_only=True)
class _Array:
    """The jobs of one shard folder, which are found again by their name."""

    name: str
    resources: SlurmResources
    source: Path | None
    tasks: int
    allow_left_out: float

    def fill(self, plan: ShardPlan, out: Path, shards: Sequence[PlannedShard], limit: FailureLimit) -> None:
        """Have the tasks write these shards; the `fill` of `write_shards`."""
        whole = ShardTask(
            recipe=plan.recipe,
            source=self.source,
            out=out,
            identity=plan.identity,
            stems=tuple(shard.stem for shard in shards),
            workers=self.resources.cpus_per_task,
            allow_left_out=self.allow_left_out,
        )
        parts = [replace(whole, stems=whole.stems[number :: self.tasks]) for number in range(self.tasks)]
        running = self._submit([part for part in parts if part.stems])
        try:
            while running:
                ended = self._next_ended(running)
                done = receipts(plan, out)
                limit.check(plan.selection.left_out + count_left_out(done.values()))
                rest = [self._rest(job_id, running.pop(job_id), done) for job_id in ended]
                running |= self._submit([task for task in rest if task.stems])
        except UserError:
            if running:
                subprocess.run(["scancel", *running], capture_output=True, timeout=60)
            raise

    def wait_for_earlier(self) -> None:
        """Wait for the jobs that an earlier call left in the queue."""
        while earlier := self._active():
            print(f"waiting for {len(earlier)} tasks of an earlier call ({self.name})", flush=True)
            self._next_ended(earlier)

    def _rest(self, job_id: str, task: ShardTask, done: Collection[str]) -> ShardTask:
        """Return an ended task with the shards that are left; raises UserError if it made no progress repeatedly."""
        left = tuple(stem for stem in task.stems if stem not in done)
        futile = task.futile + 1 if left == task.stems else 0
        if futile == _ATTEMPTS:
            raise UserError(
                f"job {job_id} ended {_ATTEMPTS} times without finishing any of its {len(left)} shards: see its log in "
                f"{self.resources.logs}, and run the same command again"
            )
        if left:
            missing = f"{len(left)} of {len(task.stems)} shards missing"
            print(f"job {job_id} ended with {missing}: submitted again", flush=True)
        return replace(task, stems=left, futile=futile)

    def _submit(self, tasks: Sequence[ShardTask]) -> dict[str, ShardTask]:
        """Submit one job array of these tasks; return {job id: task}."""
        if not tasks:
            return {}
        executor = _executor(self.name, self.resources, len(tasks))
        with executor.batch():
            jobs = [executor.submit(task) for task in tasks]
        num_shards = sum(len(task.stems) for task in tasks)
        first = jobs[0].job_id.split("_")[0]
        print(
            f"job {first} ({self.name}): {num_shards} shards in {len(jobs)} tasks; logs {self.resources.logs}",
            flush=True,
        )
        return {job.job_id: task for job, task in zip(jobs, tasks, strict=True)}

    def _next_ended(self, jobs: Collection[str]) -> list[str]:
        """Wait until at least one of the jobs is neither queued nor running; return those that ended."""
        seconds = _SHORTEST_POLL
        while not (ended := set(jobs).difference(self._active())):
            time.sleep(seconds)
            seconds = min(1.5 * seconds, _LONGEST_POLL)
        return sorted(ended)

    def _active(self) -> list[str]:
        """Return the ids of the jobs that are queued or running; asks until SLURM answers."""
        command = ["squeue", "--me", "--noheader", "--array", f"--name={self.name}", "--format=%i"]
        deadline = time.monotonic() + _PATIENCE
        while True:
            asked = subprocess.run(command, capture_output=True, text=True)
            if asked.returncode == 0:
                return asked.stdout.split()
            if time.monotonic() > deadline:
                reason = asked.stderr.strip().rpartition("\n")[2]
                raise UserError(f"squeue fails ({reason}): run the same command again later")
            time.sleep(_LONGEST_POLL)


def _executor(name: str, resources: SlurmResources, tasks: int) -> submitit.AutoExecutor:
    resources.logs.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Time limits are not counted here: a task that reaches its limit has finished some shards, or `_rest` gives it up.
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
