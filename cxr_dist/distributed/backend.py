"""Choose the engine of parallel training (interface in engine.py) and manage the process group.

Every `if` about engines is in this room; the training step does not know which engine runs.
"""

import datetime
import os

import torch
import torch.distributed as dist
from torch import nn

from cxr_dist.config.run import Config
from cxr_dist.distributed.compiled import check_compiler, compile_forward
from cxr_dist.distributed.deterministic import make_deterministic
from cxr_dist.distributed.engine import Backend, NewOptimizer
from cxr_dist.distributed.sync_batchnorm import synchronise_batchnorm
from cxr_dist.distributed.world import World, rendezvous
from cxr_dist.distributed.zero_settings import zero_settings
from cxr_dist.errors import UserError

# Multiple of the watchdog's timeout, so that the watchdog, which names the rank to blame, ends the job first.
_COLLECTIVE_PATIENCE = 3


def check_parallel(config: Config, world: World) -> None:
    """Raise UserError if the engine cannot run at this world size or its settings file is invalid."""
    if config.parallel == "ddp":
        return
    zero_settings(config)
    if world.world_size == 1:
        raise UserError(
            f"--parallel {config.parallel} spreads the optimizer's state over ranks, but there is only one: "
            "use --parallel ddp, or start several ranks (torchrun, accelerate launch, srun)"
        )


def start(world: World, timeout_minutes: float) -> None:
    """Make this rank's GPU the current one, and join the other ranks: NCCL on CUDA, gloo on CPU (all ranks)."""
    cuda = world.device.type == "cuda"
    if cuda:
        torch.cuda.set_device(world.device)
    if world.world_size > 1 and not dist.is_initialized():
        os.environ.update(rendezvous(world))
        timeout = datetime.timedelta(minutes=_COLLECTIVE_PATIENCE * timeout_minutes)
        dist.init_process_group("nccl" if cuda else "gloo", timeout=timeout)


def stop() -> None:
    """Leave the process group (all ranks)."""
    if dist.is_initialized():
        dist.destroy_process_group()


def new_backend(config: Config, world: World, model: nn.Module, new_optimizer: NewOptimizer) -> Backend:
    """Return the engine that `--parallel` names, for a model on its device (all ranks)."""
    if config.exact_sums:
        make_deterministic(next(model.parameters()).device)
    if config.model.sync_batchnorm and world.world_size > 1:
        synchronise_batchnorm(model, world.world_size)
    if config.compile:
        check_compiler(next(model.parameters()).device)
        compile_forward(model)
    if config.parallel == "ddp":
        from cxr_dist.distributed.ddp import DataParallel

        return DataParallel(config, world, model, new_optimizer)
    from cxr_dist.distributed.zero import Zero  # imports deepspeed, which takes a second

    return Zero(config, world, model, new_optimizer)
