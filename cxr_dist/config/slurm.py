"""Resources of a SLURM job or of a task of a job array, for training jobs and for `cxr-dist shard --slurm`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from cxr_dist.config.range import Range, check_ranges


@dataclass(frozen=True, kw_only=True)
class SlurmResources:
    """Cores, memory, time and partition of each task, under the names that sbatch and submitit use."""

    cpus_per_task: Annotated[int, Range(min=1)] = 4
    """Number of cores per task, shared by the loader workers or sharding processes."""
    mem_gb: Annotated[float | None, Range(above=0)] = None
    """Memory per node in GB; by default that of the partition."""
    minutes: Annotated[int, Range(min=1)] = 240
    """Time limit of one job in minutes; unfinished work continues in another job."""
    partition: str | None = None
    """SLURM partition; by default that of the cluster."""
    account: str | None = None
    """SLURM account to charge."""
    sbatch: dict[str, str] = field(default_factory=dict)
    """Other options of sbatch as pairs of name and value, such as: qos high constraint a100."""
    logs: Path = Path("logs")
    """Folder for submitit's scripts and pickles and the output of the tasks; all machines must see it."""

    def __post_init__(self) -> None:
        check_ranges(self, "slurm")

    def submitit_parameters(self, *srun_arguments: str) -> dict[str, Any]:
        """Return arguments for submitit's `AutoExecutor.update_parameters`, with additional arguments of srun."""
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
