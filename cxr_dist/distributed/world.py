"""Rank, world size, local rank, node and device of this process, read from the environment or given as integers.

torchrun and `accelerate launch` set RANK, WORLD_SIZE and LOCAL_RANK; a task of `srun`, and therefore of submitit,
has SLURM_PROCID and related variables; any other process is a single rank.
"""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from cxr_dist.config.data import is_power_of_two
from cxr_dist.errors import UserError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class World:
    """The place of this process among the ranks of a job; all numbers except world_size count from 0."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    node: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise UserError(f"rank {self.rank} is not in 0 to world size {self.world_size} - 1")

    @cached_property
    def device(self) -> "torch.device":
        """This rank's GPU, chosen by its local rank, or the CPU where torch sees no GPU.

        Raises UserError without a GPU in a process that `accelerate launch` started for one.
        """
        import torch  # slow to import, and most users of a World ask for numbers only

        if not torch.cuda.is_available():
            if launched_for_gpus():
                raise UserError(
                    "accelerate started a process per GPU, but torch sees no GPU on this machine: use "
                    "launch/accelerate/cpu2.yaml instead of workstation.yaml, or run `cxr-dist train` by itself"
                )
            return torch.device("cpu")
        return torch.device("cuda", self.local_rank % torch.cuda.device_count())

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, the only rank that writes, prints and requeues."""
        return self.rank == 0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "World":
        """Read torchrun's variables, else those of a SLURM step; otherwise return a single rank."""
        env = environment
        if "RANK" in env and "WORLD_SIZE" in env:
            rank, local_size = int(env["RANK"]), int(env.get("LOCAL_WORLD_SIZE", "1"))
            return cls(
                rank=rank,
                world_size=int(env["WORLD_SIZE"]),
                local_rank=int(env.get("LOCAL_RANK", "0")),
                node=int(env.get("GROUP_RANK", rank // max(1, local_size))),
            )
        # A batch script also has SLURM_PROCID=0 and SLURM_NTASKS, although it is not a task of a step.
        if "SLURM_STEP_NUM_TASKS" in env and "SLURM_PROCID" in env and env.get("SLURM_STEP_ID", "").isdigit():
            return cls(
                rank=int(env["SLURM_PROCID"]),
                world_size=int(env["SLURM_STEP_NUM_TASKS"]),
                local_rank=int(env["SLURM_LOCALID"]),
                node=int(env["SLURM_NODEID"]),
            )
        return cls()


def launched_for_gpus(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether `accelerate launch` started this process with its multi-GPU launcher, and without hiding the GPUs.

    launch/accelerate/cpu2.yaml hides them by the invalid id -1.
    """
    env = environment
    launched = "ACCELERATE_MIXED_PRECISION" in env and "LOCAL_RANK" in env
    on_cpu = env.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true")
    return launched and not on_cpu and not env.get("CUDA_VISIBLE_DEVICES", "").startswith("-1")


def rendezvous(world: World, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables that torch's `env://` rendezvous needs and the launcher did not set.

    Under SLURM the address is the step's first host. The port is derived from the job id and the number of restarts,
    so that neither two jobs on a host nor two starts of a job share it. Any process that can reach the port can join,
    so use a trusted network only.
    """
    variables = {
        "RANK": str(world.rank),
        "WORLD_SIZE": str(world.world_size),
        "LOCAL_RANK": str(world.local_rank),
    }
    if "MASTER_ADDR" not in environment and world.world_size > 1:
        nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST")
        if nodes is None:
            raise UserError("WORLD_SIZE is above 1 but MASTER_ADDR is not set: start with torchrun, accelerate or srun")
        variables["MASTER_ADDR"] = _first_host(nodes)
    if "MASTER_PORT" not in environment:
        job, restart = environment.get("SLURM_JOB_ID", "0"), environment.get("SLURM_RESTART_COUNT", "0")
        variables["MASTER_PORT"] = str(20000 + (int(job) + 1000 * int(restart)) % 12000)
    return {name: value for name, value in variables.items() if name not in environment}


def _first_host(nodes: str) -> str:
    """Return the first host of a list in SLURM's `node[1-4,7]` notation, which runs rank 0."""
    command = ["scontrol", "show", "hostnames", nodes]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        raise UserError(
            f"`scontrol show hostnames {nodes}` failed on this host: set MASTER_ADDR to the host of rank 0"
        ) from None
    return listed.stdout.split()[0]


def lanes_of(world: World, num_lanes: int, *, exact: bool = False) -> range:
    """Return the lanes that this rank computes; raises UserError if W does not divide K.

    They are r, r + W, …; `exact`: consecutive ones, r K/W, r K/W + 1, …, which are a subtree of the sum over lanes.
    """
    if num_lanes % world.world_size:
        legal = legal_world_sizes(num_lanes, exact=exact)
        raise UserError(
            f"world size {world.world_size} does not divide {num_lanes} lanes (data.global_batch / "
            f"data.micro_batch): use {', '.join(map(str, legal))} ranks, or change data.micro_batch"
        )
    if exact:
        per_rank = num_lanes // world.world_size
        return range(world.rank * per_rank, (world.rank + 1) * per_rank)
    return range(world.rank, num_lanes, world.world_size)


def legal_world_sizes(num_lanes: int, *, exact: bool = False) -> list[int]:
    """Return the numbers of ranks that can share the lanes, in ascending order; `exact`: only powers of two."""
    sizes = [size for size in range(1, num_lanes + 1) if num_lanes % size == 0]
    return [size for size in sizes if not exact or is_power_of_two(size)]


def micro_batches_for(global_batch: int, world_size: int, *, exact: bool = False) -> list[int]:
    """Return the micro-batch sizes that give all ranks equally many lanes, in descending order.

    The list is empty if the world size does not divide the global batch. `exact`: the number of lanes and of ranks must
    be a power of two.
    """
    if global_batch % world_size or (exact and not is_power_of_two(world_size)):
        return []
    per_rank = global_batch // world_size
    sizes = [size for size in range(per_rank, 0, -1) if per_rank % size == 0]
    return [size for size in sizes if not exact or is_power_of_two(per_rank // size)]
