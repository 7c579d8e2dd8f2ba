"""The commands that take a run's configuration: `plan`, `doctor` and `train`."""

import signal
import sys
from typing import TYPE_CHECKING

from cxr_dist.cli.ending import interruptible
from cxr_dist.cli.paths import check_output_folder, check_shards
from cxr_dist.errors import EXIT_INTERRUPTED, EXIT_REFUSED, EXIT_STOPPED, UserError, printable

if TYPE_CHECKING:
    from cxr_dist.config.run import Config


def plan(config: "Config") -> None:
    """Show what a run would do, without training: steps, draws per class, memory, legal numbers of ranks.

    It refuses what training would refuse, and needs no GPU.

    For example: cxr-dist plan enhanced --data.shards data/shards
    """
    check_shards(config.data.shards)
    from cxr_dist.doctor.dry_run import describe

    for name, value in describe(config).items():
        print(printable(f"{name:<28}{value}"))


def doctor(config: "Config") -> None:
    """Check software, GPU, shards, weights, disks and ranks before a run takes GPUs.

    The exit status is 1 if a check failed. Start it as the run would be started, for example with srun, so that it
    checks all ranks.

    For example: cxr-dist doctor enhanced --data.shards data/shards
    """
    from cxr_dist.doctor.examine import examine

    sys.exit(0 if examine(config) else 1)


def train(config: "Config") -> None:
    """Train a run, or resume it if its folder contains a checkpoint.

    The run folder is --out, by default runs/NAME. Ctrl-C, SIGTERM and a job's time limit save the run, and the same
    command resumes it.

    For example: cxr-dist train enhanced --data.shards data/shards --out runs/enhanced
    """
    check_shards(config.data.shards)
    check_output_folder(config.run_dir)
    from cxr_dist.distributed.watch.progress import start_clock
    from cxr_dist.distributed.world import World
    from cxr_dist.run.preempt import StopRequest

    start_clock()
    asked_to_stop = StopRequest(config.train.max_minutes)  # before importing torch, which takes seconds
    from cxr_dist.train.assembly import train as run_training
    from cxr_dist.train.loop import Outcome

    world = World.from_environment()
    try:
        with interruptible(lambda: "the same command resumes the last checkpoint, if any"):
            outcome = run_training(config, asked_to_stop, print)
    except UserError as error:
        if not (world.is_main or error.known_to_all) and asked_to_stop.received(signal.SIGTERM):
            sys.exit(EXIT_REFUSED)  # the launcher ends this rank, because rank 0 has failed and said why
        raise
    if outcome is Outcome.FINISHED:
        sys.exit(0)
    sys.exit(EXIT_INTERRUPTED if asked_to_stop.only_interrupted else EXIT_STOPPED)
