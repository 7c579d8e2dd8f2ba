"""Submit a training run with submitit: to SLURM from a login node, or to this machine for a try.

    python launch/submit.py enhanced --nodes 2 --tasks-per-node 4 --data.shards SHARDS --out RUN_DIR

Flags that are not the site's (below) go to the run and are checked here, so that a typo fails before the job
queues. In a job only the run's name and its flags are unpickled; the run folder is the state.
"""

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import submitit
import tyro

from cxr_dist.cli import EXIT_STOPPED, config_of
from cxr_dist.config import Config
from cxr_dist.data.place import shards_folder
from cxr_dist.distributed.world import World, lanes_of
from cxr_dist.errors import UserError
from cxr_dist.offline import stay_offline
from cxr_dist.shard.manifest import load_manifest
from cxr_dist.train.preempt import StopRequest

_SIGNAL_SECONDS = 120  # before the time limit: the run saves, requeues itself and resumes
_POLL_SECONDS = 1.0
_GOES_ON = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED", "SUSPENDED", "STAGE_OUT")


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where the job runs, and how much of it."""

    cluster: Literal["slurm", "local", "debug"] = "slurm"
    """`local`: processes on this machine. `debug`: in this process."""
    nodes: int = 1
    """Machines."""
    tasks_per_node: int = 1
    """Ranks per machine: one per GPU."""
    gpus_per_node: int | None = None
    """Default: as many as tasks; 0 for a cluster without GPUs."""
    cpus_per_task: int = 4
    """Cores per rank, for its loader workers too."""
    mem_gb: float | None = None
    """Memory per machine; default: the partition's."""
    minutes: int = 480
    """Time limit of one job; the run requeues itself when it is near."""
    partition: str | None = None
    """SLURM partition; default: the cluster's."""
    account: str | None = None
    """SLURM account to charge."""
    sbatch: dict[str, str] = field(default_factory=dict)
    """Other options of sbatch: --sbatch qos high constraint a100."""
    logs: Path = Path("logs")
    """Folder for submitit's scripts, pickles and the job's output; all machines must see it."""
    wait_minutes: float = 0
    """Stay until the job has ended, at most so long; 0: do not wait."""

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
        config = config_of(self.run, self.flags, f"cxr-dist train {self.run}")
        asked_to_stop = StopRequest(config.train.max_minutes)  # after submitit's handlers, before torch
        stay_offline()
        _join_local_tasks()
        from cxr_dist.session import train
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
    """Raise UserError for what would fail in the job: no shards, or a world size that does not fit."""
    load_manifest(shards_folder(config.data))
    lanes_of(World(world_size=site.world_size), config.data.num_lanes)


def executor_for(site: Site, run: str) -> submitit.AutoExecutor:
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
        cpus_per_task=site.cpus_per_task,
        mem_gb=site.mem_gb,
        timeout_min=site.minutes,
        stderr_to_stdout=True,
        slurm_partition=site.partition,
        slurm_account=site.account,
        slurm_signal_delay_s=_SIGNAL_SECONDS,
        slurm_setup=["export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK HF_HUB_OFFLINE=1"],
        slurm_srun_args=["--kill-on-bad-exit=1", f"--cpus-per-task={site.cpus_per_task}"],
        slurm_additional_parameters={"requeue": True} | site.sbatch,
    )
    return executor


def job_state(job: Any) -> str:
    """SLURM's word for the job's state, without an accounting database; submitit's elsewhere."""
    if not isinstance(job, submitit.SlurmJob):
        return str(job.state)
    command = ["scontrol", "--oneliner", "show", "job", job.job_id]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60)
    words = [word for word in shown.stdout.split() if word.startswith("JobState=")]
    return words[0].removeprefix("JobState=") if words else "UNKNOWN"


def wait(job: Any, minutes: float) -> bool:
    """Wait for the job's end; True where the run finished. Raises UserError at the deadline."""
    deadline = time.monotonic() + 60 * minutes
    while (state := job_state(job)) in _GOES_ON:
        if time.monotonic() > deadline:
            raise UserError(f"job {job.job_id} is still {state} after {minutes:g} minutes; it goes on")
        time.sleep(_POLL_SECONDS)
    print(f"state {state}")
    if state == "FINISHED":  # a local job, however it ended
        return job.exception() is None
    return state == "COMPLETED"


def submit(run: str, arguments: list[str]) -> bool:
    """Check, submit, and wait where asked to; False where the job was seen to fail."""
    prog = f"submit.py {run}"
    site, flags = tyro.cli(Site, args=arguments, prog=prog, description=__doc__, return_unknown_args=True)
    check(config_of(run, flags, f"cxr-dist train {run}"), site)
    job = executor_for(site, run).submit(TrainingJob(run, tuple(flags)))
    print(f"job {job.job_id}\nlogs {job.paths.stdout}", flush=True)
    if site.cluster == "debug":
        job.result()
        return True
    return wait(job, site.wait_minutes) if site.wait_minutes else True


def main() -> None:
    """A UserError ends it with its one message and exit status 2."""
    run, *arguments = sys.argv[1:] or ["--help"]
    try:
        if run.startswith("-"):
            run, arguments = "RUN", ["--help"]
        sys.exit(0 if submit(run, arguments) else 1)
    except UserError as error:
        print(f"submit.py: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
