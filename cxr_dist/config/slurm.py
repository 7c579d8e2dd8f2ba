"""What a job or a task of a SLURM array gets of the cluster: for training jobs and for `cxr-dist shard --slurm`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class SlurmResources:
    """Cores, memory, time and place of each task, under the names that sbatch and submitit use."""

    cpus_per_task: int = 4
    """Cores of each task; loader workers and sharding processes share them."""
    mem_gb: float | None = None
    """Memory per node, GB; default: the partition's."""
    minutes: int = 240
    """Time limit of one job; what is not finished by then goes on in another job."""
    partition: str | None = None
    """SLURM partition; default: the cluster's."""
    account: str | None = None
    """SLURM account to charge."""
    sbatch: dict[str, str] = field(default_factory=dict)
    """Other options of sbatch, as pairs: qos high constraint a100."""
    logs: Path = Path("logs")
    """Folder for submitit's scripts, pickles and the tasks' output; all machines must see it."""

    def submitit_parameters(self, *srun_arguments: str) -> dict[str, Any]:
        """Arguments of submitit's `AutoExecutor.update_parameters`, with these further arguments of srun."""
        return {
            "cpus_per_task": self.cpus_per_task,
            "mem_gb": self.mem_gb,
            "timeout_min": self.minutes,
            "stderr_to_stdout": True,
            "slurm_partition": self.partition,
            "slurm_account": self.account,
            "slurm_srun_args": [f"--cpus-per-task={self.cpus_per_task}", *srun_arguments],
            "slurm_additional_parameters": {"requeue": True} | self.sbatch,
        }
