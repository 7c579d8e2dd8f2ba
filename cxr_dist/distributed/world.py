"""Who am I: rank, world size, local rank and node, made once from the environment or by hand from integers.

torchrun and `accelerate launch` set RANK, WORLD_SIZE and LOCAL_RANK; a task of `srun` (and so of submitit)
has SLURM_PROCID and its kin; anything else is a single process. Imports nothing but the standard library.
"""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from cxr_dist.errors import UserError


@dataclass(frozen=True, kw_only=True)
class World:
    """This process's place among the ranks of a job."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    node: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world_size:
            raise UserError(f"rank {self.rank} is not in 0 to world size {self.world_size} - 1")

    @property
    def is_main(self) -> bool:
        """True on rank 0, which alone writes, prints and requeues."""
        return self.rank == 0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "World":
        """Read torchrun's variables, else those of a SLURM step, else a world of one."""
        env = environment
        if "RANK" in env and "WORLD_SIZE" in env:
            local_rank, local_size = int(env.get("LOCAL_RANK", "0")), int(env.get("LOCAL_WORLD_SIZE", "1"))
            node = int(env.get("GROUP_RANK", int(env["RANK"]) // max(1, local_size)))
            return cls(
                rank=int(env["RANK"]), world_size=int(env["WORLD_SIZE"]), local_rank=local_rank, node=node
            )
        # A batch script, too, has SLURM_PROCID=0 and SLURM_NTASKS, without being a task of a step.
        if "SLURM_STEP_NUM_TASKS" in env and "SLURM_PROCID" in env and env.get("SLURM_STEP_ID", "").isdigit():
            return cls(
                rank=int(env["SLURM_PROCID"]),
                world_size=int(env["SLURM_STEP_NUM_TASKS"]),
                local_rank=int(env["SLURM_LOCALID"]),
                node=int(env["SLURM_NODEID"]),
            )
        return cls()


def rendezvous(world: World, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that torch's `env://` rendezvous needs and the launcher did not set.

    Under SLURM the address is the step's first host and the port comes from the job id and its restarts,
    so that two jobs on a host do not meet, nor a job and a start of it that SLURM has lost sight of. Whoever can
    reach that port can join: use a trusted network only.
    """
    found = {
        "RANK": str(world.rank),
        "WORLD_SIZE": str(world.world_size),
        "LOCAL_RANK": str(world.local_rank),
    }
    if "MASTER_ADDR" not in environment and world.world_size > 1:
        nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST")
        if nodes is None:
            raise UserError(
                "WORLD_SIZE is above 1 but MASTER_ADDR is not set: start with torchrun, accelerate or srun"
            )
        found["MASTER_ADDR"] = _first_host(nodes)
    if "MASTER_PORT" not in environment:
        job, restart = environment.get("SLURM_JOB_ID", "0"), environment.get("SLURM_RESTART_COUNT", "0")
        found["MASTER_PORT"] = str(20000 + (int(job) + 1000 * int(restart)) % 12000)
    return {name: value for name, value in found.items() if name not in environment}


def _first_host(nodes: str) -> str:
    """The first name in SLURM's `node[1-4,7]` notation; rank 0 runs there."""
    command = ["scontrol", "show", "hostnames", nodes]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        raise UserError(
            f"`scontrol show hostnames {nodes}` did not work here: set MASTER_ADDR to the host of rank 0"
        ) from None
    return listed.stdout.split()[0]


def lanes_of(world: World, num_lanes: int) -> range:
    """The lanes that this rank computes: r, r + W, …; raises UserError where W does not divide K."""
    if num_lanes % world.world_size:
        legal = [w for w in range(1, num_lanes + 1) if num_lanes % w == 0]
        raise UserError(
            f"world size {world.world_size} does not divide {num_lanes} lanes (data.global_batch / "
            f"data.micro_batch): use {', '.join(map(str, legal))} ranks, or change data.micro_batch"
        )
    return range(world.rank, num_lanes, world.world_size)


def micro_batches_for(global_batch: int, world_size: int) -> list[int]:
    """The micro-batches with which all ranks have equally many lanes, the largest first.

    Empty where the world size does not divide the global batch.
    """
    if global_batch % world_size:
        return []
    per_rank = global_batch // world_size
    return [size for size in range(per_rank, 0, -1) if per_rank % size == 0]
