"""Submit a training run with submitit, to SLURM from a login node, or to this machine for a trial.

    cxr-dist submit enhanced --nodes 2 --tasks-per-node 4 --data.shards SHARDS --out RUN_DIR
    cxr-dist submit enhanced --sweep optim.lr=1e-4,2e-4 --sweep seed=1,2,3 --data.shards SHARDS --out OUT
    cxr-dist submit status OUT

`python launch/submit.py` is the same command in a checkout. A job unpickles only the run's name and flags; the run
folder is the state.
"""

import contextlib
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import submitit
import tyro
from rich.console import Console

from cxr_dist.config.argument_help import help_paragraphs
from cxr_dist.config.command_line import flags_of, parse, parse_call
from cxr_dist.config.flags import config_of
from cxr_dist.config.named import RUNS
from cxr_dist.config.range import Range, check_ranges
from cxr_dist.config.run import Config
from cxr_dist.config.slurm import SlurmResources
from cxr_dist.config.supplied import supplied
from cxr_dist.data.place import open_manifest
from cxr_dist.distributed.watch.progress import start_clock
from cxr_dist.distributed.world import World
from cxr_dist.errors import EXIT_REFUSED, EXIT_STOPPED, CommandLineError, UserError
from cxr_dist.launch.job_states import queue_states, wait
from cxr_dist.launch.sweep import Sweep, SweepRun, sweep_runs, table
from cxr_dist.model.offline import stay_offline
from cxr_dist.run.preempt import StopRequest
from cxr_dist.run.requeue import forbid_requeue

_PATIENCE_SECONDS = 600.0  # how long SLURM may fail to answer while we wait
_HELP = """Submit a training run as a SLURM job with submitit, or on this machine with --cluster local.

With --sweep it is a job array of runs, which `cxr-dist submit status OUT` shows.

Flags that are not listed below belong to the run: `cxr-dist train RUN --help` lists them. They are checked before the
job is queued.

For example: cxr-dist submit enhanced --nodes 2 --tasks-per-node 4 --data.shards data/shards --out runs/enhanced
"""
_SIGNAL_SECONDS = 120  # the run is signalled this long before the time limit, saves, requeues itself and resumes


@dataclass(frozen=True, kw_only=True)
class Site(SlurmResources):
    """Where the job runs and which resources it gets."""

    cluster: Literal["slurm", "local", "debug"] = "slurm"
    """`local`: processes on this machine. `debug`: this process."""
    nodes: Annotated[int, Range(min=1)] = 1
    """Number of nodes."""
    tasks_per_node: Annotated[int, Range(min=1)] = 1
    """Number of ranks per node, one per GPU."""
    gpus_per_node: Annotated[int | None, Range(min=0)] = None
    """Number of GPUs per node, by default that of the tasks; 0 for a cluster without GPUs."""
    minutes: Annotated[int, Range(min=1)] = 480
    """Time limit of one job in minutes; the run requeues itself before it is reached."""
    wait_minutes: Annotated[float, Range(min=0)] = 0
    """Longest time in minutes to wait for the job to end; 0: do not wait."""
    sweep: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """FIELD=VALUE,VALUE,…: a run in OUT/NAME for each combination, as a job array. The same command again submits
    the runs that have neither finished nor are in the queue."""
    at_once: Annotated[int, Range(min=1)] = 256
    """Maximum number of runs of a sweep that have nodes at the same time."""

    @property
    def world_size(self) -> int:
        """Number of ranks of the job."""
        return self.nodes * self.tasks_per_node

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.cluster == "local" and self.nodes > 1:
            raise UserError(f"--cluster local is one machine, not {self.nodes}: use --tasks-per-node")
        if self.cluster == "debug" and self.world_size > 1:
            raise UserError(f"--cluster debug is one process, not {self.world_size}: use --cluster local")


class TrainingJob:
    """The callable that runs in each task; it pickles only the run's name and flags."""

    def __init__(self, run: str, flags: tuple[str, ...]) -> None:
        self.run, self.flags = run, flags

    def __call__(self) -> str:
        """Train or resume the run (all ranks); exits with EXIT_STOPPED if steps remain."""
        try:
            return self._train()
        except UserError:
            forbid_requeue()
            raise

    def _train(self) -> str:
        start_clock()
        config = config_of(self.run, self.flags, f"cxr-dist train {self.run}")
        asked_to_stop = StopRequest(config.train.max_minutes)  # after submitit's handlers, before importing torch
        stay_offline()
        _join_local_tasks()
        from cxr_dist.train.assembly import train
        from cxr_dist.train.loop import Outcome

        outcome = train(config, asked_to_stop)
        if outcome is Outcome.STOPPED:
            sys.exit(EXIT_STOPPED)  # without a result file, so that submitit does not take the job for finished
        return str(outcome.value)

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Return the same job, for submitit when a signal arrives before our handlers are installed."""
        return submitit.helpers.DelayedSubmission(TrainingJob(self.run, self.flags))

    __submitit_checkpoint__ = checkpoint  # submitit checks for this name, but calls the other


def _join_local_tasks() -> None:
    """Set the variables that `World` reads in submitit's local tasks; a task of srun has those of SLURM."""
    task = submitit.JobEnvironment()
    if task.cluster == "local":
        ranks = {"RANK": task.global_rank, "WORLD_SIZE": task.num_tasks, "LOCAL_RANK": task.local_rank}
        port = 20000 + int(task.job_id) % 12000
        os.environ.update({name: str(value) for name, value in ranks.items()})
        os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=str(port))


def check(config: Config, site: Site) -> None:
    """Raise UserError if the shards, the run folder or the world size would make the job fail."""
    open_manifest(config.data)
    from cxr_dist.run.folder import check_same_run  # these import torch, which takes seconds
    from cxr_dist.train.memory.micro_batch import check_world_size
    from cxr_dist.train.memory.settle import with_recorded_micro_batch

    check_same_run(config.run_dir, config)
    config = with_recorded_micro_batch(config)
    check_world_size(config, World(world_size=site.world_size))


def setup_lines(run_dirs: Sequence[Path]) -> list[str]:
    """Return the lines of submitit's batch script before its srun, which they replace by a supervised one.

    `run_dirs` has one run folder, or one for each task of an array in order.
    """
    return [
        "export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK",
        f"source {shlex.quote(str(supplied('slurm') / 'supervise.sh'))}",
        f"python={shlex.quote(sys.executable)}",
        f"run_dirs=({shlex.join(map(str, run_dirs))})",
        "run_dir=${run_dirs[${SLURM_ARRAY_TASK_ID:-0}]}",
        'srun() { supervise "$@"; }',
    ]


def executor_for(site: Site, run: str, run_dirs: Sequence[Path]) -> submitit.AutoExecutor:
    """Return submitit's executor with the settings of the site; raises UserError without SLURM."""
    if site.cluster == "slurm" and shutil.which("sbatch") is None:
        raise UserError(
            "no sbatch on this machine: submit from a login node of the cluster, or train on this machine with "
            "--cluster local"
        )
    site.logs.mkdir(mode=0o700, parents=True, exist_ok=True)
    # submitit counts the preemption of a short job as a timeout, and gives up after 3 by default.
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


def submit(run: str, arguments: Sequence[str], prog: str = "cxr-dist submit") -> bool:
    """Check and submit the run, and wait if requested; False if the job failed meanwhile."""
    parsed: Any = parse(
        Site,
        arguments,
        f"{prog} {run}",
        flags=flags_of(Site),
        description=help_paragraphs(_HELP),
        return_unknown_args=True,
    )
    site, flags = parsed
    config = config_of(run, flags, f"{prog} {run}", others=flags_of(Site))
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
    """Check all combinations, submit the open ones as one array and show all; False if one failed meanwhile."""
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


def submit_array(run: str, site: Site, runs: Sequence[SweepRun]) -> list[submitit.Job[str]]:
    """Submit a job array with a task for each run, in order."""
    executor = executor_for(site, run, [each.config.run_dir for each in runs])
    with executor.batch():
        jobs = [executor.submit(TrainingJob(run, each.flags)) for each in runs]
    if site.cluster == "debug":
        for job in jobs:
            job.result()
    return jobs


def status(arguments: Sequence[str], prog: str = "cxr-dist submit") -> None:
    """Show the runs of a sweep."""
    parse_call(_show, arguments, f"{prog} status")()


def _show(folder: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="OUT")]], /) -> None:
    """Show the job, state, last step and best validation of each run of a sweep.

    For example: cxr-dist submit status runs/sweep

    Args:
        folder: The --out of the sweep.
    """
    if not (folder / "sweep.json").is_file():
        raise UserError(f"no sweep.json in {folder}: expected the --out of a sweep")
    try:
        queue = queue_states()
    except UserError as error:
        print(f"from the run folders alone: {error}")
        queue = {}
    Console().print(table(Sweep(folder).states(queue)))


def run_command(arguments: Sequence[str], prog: str) -> int:
    """Run `submit RUN …` or `submit status OUT` and return the exit status; `prog` is the name in the help."""
    run, *rest = arguments or ["--help"]
    if not arguments:
        with contextlib.suppress(SystemExit):
            submit("RUN", ["--help"], prog)
        return EXIT_REFUSED
    if run == "status":
        status(rest, prog)
        return 0
    if {"-h", "--help"} & set(arguments):
        run, rest = (run if not run.startswith("-") else "RUN"), ["--help"]
    elif run.startswith("-"):
        raise CommandLineError(f"submit expects a run before {run!r}: one of {', '.join(RUNS)}")
    return 0 if submit(run, rest, prog) else 1


def main() -> None:
    """Run launch/submit.py; a UserError ends it with its message and exit status 2."""
    try:
        sys.exit(run_command(sys.argv[1:], "submit.py"))
    except UserError as error:
        print(f"submit.py: {error}", file=sys.stderr)
        sys.exit(EXIT_REFUSED)
