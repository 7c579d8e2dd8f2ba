"""Submit a training run with submitit: to SLURM from a login node, or to this machine for a try.

    python launch/submit.py enhanced --nodes 2 --tasks-per-node 4 --data.shards SHARDS --out RUN_DIR
    python launch/submit.py enhanced --sweep optim.lr=1e-4,2e-4 --sweep seed=1,2,3 --data.shards SHARDS --out OUT
    python launch/submit.py status OUT

Flags that are not the site's (below) go to the run and are checked here, so that a typo fails before the job
queues. In a job only the run's name and its flags are unpickled; the run folder is the state.
"""

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import submitit
import tyro
from job_states import queue_states, wait
from rich.console import Console
from sweep import Sweep, SweepRun, sweep_runs, table

from cxr_dist.cli.main import config_of
from cxr_dist.config.run import Config
from cxr_dist.config.slurm import SlurmResources
from cxr_dist.data.place import shards_folder
from cxr_dist.distributed.watch.progress import start_clock
from cxr_dist.distributed.world import World
from cxr_dist.errors import EXIT_STOPPED, UserError
from cxr_dist.format.manifest import load_manifest
from cxr_dist.model.offline import stay_offline
from cxr_dist.run.folder import check_same_run
from cxr_dist.run.preempt import StopRequest
from cxr_dist.run.requeue import forbid_requeue
from cxr_dist.train.memory.micro_batch import check_world_size
from cxr_dist.train.memory.settle import with_recorded_micro_batch

_SUPERVISE = Path(__file__).resolve().parents[1] / "slurm" / "supervise.sh"
_PATIENCE_SECONDS = 600.0  # that SLURM may leave questions unanswered while we wait
_SIGNAL_SECONDS = 120  # before the time limit: the run saves, requeues itself and resumes


@dataclass(frozen=True, kw_only=True)
class Site(SlurmResources):
    """Where the job runs, and how much of the cluster it gets."""

    cluster: Literal["slurm", "local", "debug"] = "slurm"
    """`local`: processes on this machine. `debug`: in this process."""
    nodes: int = 1
    """Machines."""
    tasks_per_node: int = 1
    """Ranks per machine: one per GPU."""
    gpus_per_node: int | None = None
    """Default: as many as tasks; 0 for a cluster without GPUs."""
    minutes: int = 480
    """Time limit of one job; the run requeues itself when it is near."""
    wait_minutes: float = 0
    """Stay until the job has ended, at most so long; 0: do not wait."""
    sweep: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """FIELD=VALUE,VALUE,…: a run in OUT/NAME for each combination, as a job array. The same command again submits
    what has neither finished nor is in the queue."""
    at_once: int = 256
    """Runs of a sweep that may have nodes at the same time."""

    @property
    def world_size(self) -> int:
        """Ranks of the job."""
        return self.nodes * self.tasks_per_node

    def __post_init__(self) -> None:
        if self.cluster == "local" and self.nodes > 1:
            raise UserError(f"--cluster local is one machine, not {self.nodes}: use --tasks-per-node")
        if self.cluster == "debug" and self.world_size > 1:
            raise UserError(f"--cluster debug is one process, not {self.world_size}: use --cluster local")


class TrainingJob:
    """What runs in each task: picklable, and nothing but the run's name and flags."""

    def __init__(self, run: str, flags: tuple[str, ...]) -> None:
        self.run, self.flags = run, flags

    def __call__(self) -> str:
        """Train or resume (all ranks). Leaves with the status for "stopped" where steps remain."""
        try:
            return self._train()
        except UserError:
            forbid_requeue()
            raise

    def _train(self) -> str:
        start_clock()
        config = config_of(self.run, self.flags, f"cxr-dist train {self.run}")
        asked_to_stop = StopRequest(config.train.max_minutes)  # after submitit's handlers, before torch
        stay_offline()
        _join_local_tasks()
        from cxr_dist.train.assembly import train
        from cxr_dist.train.loop import Outcome

        outcome = train(config, asked_to_stop)
        if outcome is Outcome.STOPPED:
            sys.exit(EXIT_STOPPED)  # no result file: for submitit, too, the job is not over
        return str(outcome.value)

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """submitit's, for a signal that comes before our handlers stand: the same again."""
        return submitit.helpers.DelayedSubmission(TrainingJob(self.run, self.flags))

    __submitit_checkpoint__ = checkpoint  # the gate looks for one name, the call for the other


def _join_local_tasks() -> None:
    """Give submitit's local tasks the variables that `World` reads; a task of srun has SLURM's."""
    task = submitit.JobEnvironment()
    if task.cluster == "local":
        ranks = {"RANK": task.global_rank, "WORLD_SIZE": task.num_tasks, "LOCAL_RANK": task.local_rank}
        port = 20000 + int(task.job_id) % 12000
        os.environ.update({name: str(value) for name, value in ranks.items()})
        os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=str(port))


def check(config: Config, site: Site) -> None:
    """Raise UserError where the job would fail: shards, run folder or world size do not fit."""
    load_manifest(shards_folder(config.data))
    check_same_run(config.run_dir, config)
    config = with_recorded_micro_batch(config)
    check_world_size(config, World(world_size=site.world_size))


def setup_lines(run_dirs: Sequence[Path]) -> list[str]:
    """What submitit's batch script does before its srun, which becomes a supervised one.

    One run folder, or one for each task of an array in its order.
    """
    return [
        "export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK",
        f"source {shlex.quote(str(_SUPERVISE))}",
        f"python={shlex.quote(sys.executable)}",
        f"run_dirs=({shlex.join(map(str, run_dirs))})",
        "run_dir=${run_dirs[${SLURM_ARRAY_TASK_ID:-0}]}",
        'srun() { supervise "$@"; }',
    ]


def executor_for(site: Site, run: str, run_dirs: Sequence[Path]) -> submitit.AutoExecutor:
    """submitit's executor with the site's values."""
    site.logs.mkdir(mode=0o700, parents=True, exist_ok=True)
    # submitit counts a short job's preemption as a timeout, and gives up after 3 by default.
    executor = submitit.AutoExecutor(
        site.logs / "%j", cluster=site.cluster, slurm_max_num_timeout=1000, local_max_num_timeout=1000
    )
    gpus = site.tasks_per_node if site.gpus_per_node is None else site.gpus_per_node
    executor.update_parameters(
        name=f"cxr-{run}",
        nodes=site.nodes,
        tasks_per_node=site.tasks_per_node,
        gpus_per_node=gpus,
        slurm_array_parallelism=site.at_once,
        slurm_signal_delay_s=_SIGNAL_SECONDS,
        slurm_setup=setup_lines(run_dirs),
        **site.submitit_parameters(),
    )
    return executor


def submit(run: str, arguments: list[str]) -> bool:
    """Check, submit, and wait where asked to; False where the job was seen to fail."""
    prog = f"submit.py {run}"
    site, flags = tyro.cli(Site, args=arguments, prog=prog, description=__doc__, return_unknown_args=True)
    config = config_of(run, flags, f"cxr-dist train {run}")
    if site.sweep:
        return submit_sweep(run, site, flags, config.run_dir)
    check(config, site)
    job = executor_for(site, run, [config.run_dir]).submit(TrainingJob(run, tuple(flags)))
    print(f"job {job.job_id}\nlogs {job.paths.stdout}", flush=True)
    if site.cluster == "debug":
        job.result()
        return True
    return wait(job, site.wait_minutes) if site.wait_minutes else True


def submit_sweep(run: str, site: Site, flags: Sequence[str], out: Path) -> bool:
    """Check all combinations, submit the open ones as one array, show all; False where one was seen to fail."""
    sweep, runs = Sweep(out), sweep_runs(run, flags, site.sweep, out)
    for each in runs:
        try:
            check(each.config, site)
        except UserError as error:
            raise UserError(f"{each.name}: {error}") from None
    on_slurm = site.cluster == "slurm"
    open_runs = sweep.open_runs(runs, queue_states() if on_slurm else {})
    jobs = submit_array(run, site, open_runs) if open_runs else []
    sweep.record({each.name: job.job_id for each, job in zip(open_runs, jobs, strict=True)})

    def ask() -> dict[str, str]:
        return queue_states(_PATIENCE_SECONDS) if on_slurm else {job.job_id: job.state for job in jobs}

    print(f"{len(open_runs)} of {len(runs)} runs submitted; logs {site.logs}", flush=True)
    if site.wait_minutes:
        return sweep.watch(ask, site.wait_minutes)
    Console().print(table(sweep.states(ask())))
    return True


def submit_array(run: str, site: Site, runs: Sequence[SweepRun]) -> list[Any]:
    """One job array, a task for each run, in their order."""
    executor = executor_for(site, run, [each.config.run_dir for each in runs])
    with executor.batch():
        jobs = [executor.submit(TrainingJob(run, each.flags)) for each in runs]
    if site.cluster == "debug":
        for job in jobs:
            job.result()
    return jobs


def status(arguments: list[str]) -> None:
    """Show a sweep's runs, from any process."""
    folder = tyro.cli(Path, args=arguments, prog="submit.py status", description="Show the runs of a sweep.")
    if not (folder / "sweep.json").is_file():
        raise UserError(f"no sweep.json in {folder}: expected the --out of a sweep")
    try:
        queue = queue_states()
    except UserError as error:
        print(f"from the run folders alone: {error}")
        queue = {}
    Console().print(table(Sweep(folder).states(queue)))


def main() -> None:
    """A UserError ends it with its one message and exit status 2."""
    run, *arguments = sys.argv[1:] or ["--help"]
    try:
        if run.startswith("-"):
            run, arguments = "RUN", ["--help"]
        if run == "status":
            status(arguments)
            sys.exit(0)
        sys.exit(0 if submit(run, arguments) else 1)
    except UserError as error:
        print(f"submit.py: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
