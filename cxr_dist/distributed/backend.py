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


def start(world: World, timeout_minutes: float) -> torch.device:
    """Join the other ranks (NCCL on CUDA, gloo on CPU) and return this rank's device (all ranks)."""
    device = device_of(world)
    if world.world_size > 1 and not dist.is_initialized():
        os.environ.update(rendezvous(world))
        timeout = datetime.timedelta(minutes=_COLLECTIVE_PATIENCE * timeout_minutes)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timeout)
    return device


def device_of(world: World) -> torch.device:
    """Return this rank's device: its GPU, which becomes the current one, or the CPU if there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", world.local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def stop() -> None:
    """Leave the process group (all ranks)."""
    if dist.is_initialized():
        dist.destroy_process_group()


def new_backend(
    config: Config, world: World, device: torch.device, model: nn.Module, new_optimizer: NewOptimizer
) -> Backend:
    """Return the engine that `--parallel` names, for a model on its device (all ranks)."""
    if config.model.sync_batchnorm and world.world_size > 1:
        synchronise_batchnorm(model, world.world_size)
    if config.compile:
        check_compiler(device)
        compile_forward(model)
    if config.parallel == "ddp":
        from cxr_dist.distributed.ddp import DataParallel

        return DataParallel(config, world, device, model, new_optimizer)
    from cxr_dist.distributed.zero import Zero  # imports deepspeed, which takes a second

    return Zero(config, world, device, model, new_optimizer)
