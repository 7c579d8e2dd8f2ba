"""The command `cxr-dist shard`: here, or with --slurm as a job array."""

from pathlib import Path

from tyro.conf import Positional

from cxr_dist.cli.help import FOLDER


def shard(
    recipe: Positional[Path],
    *,
    out: FOLDER,
    source: FOLDER | None = None,
    workers: int = 0,
    allow_left_out: float = 0.01,
    slurm: int = 0,
    slurm_cpus_per_task: int = 4,
    slurm_mem_gb: float | None = None,
    slurm_minutes: int = 240,
    slurm_partition: str | None = None,
    slurm_account: str | None = None,
    slurm_sbatch: dict[str, str] | None = None,
    slurm_logs: FOLDER = Path("logs"),
) -> None:
    """Write a data set as WebDataset shards with an index and a manifest.

    Args:
        recipe: What to read and how: a YAML file, as in shards/.
        out: Folder for the shards; a second run with the same recipe continues or does nothing.
        source: Folder of the data set (the demo reader needs none).
        workers: Processes on this machine; 0: one per core.
        allow_left_out: Highest share of rows that may be unreadable or missing.
        slurm: Write the shards in a SLURM job array of so many tasks, and wait for it; all machines must see
            recipe, source, out and logs.
        slurm_cpus_per_task: Cores, and processes, of each task.
        slurm_mem_gb: Memory of each task; default: the partition's.
        slurm_minutes: Time limit of a task; one that reaches it goes on in another job.
        slurm_partition: SLURM partition; default: the cluster's.
        slurm_account: SLURM account to charge.
        slurm_sbatch: Other options of sbatch: --slurm-sbatch qos high constraint fast.
        slurm_logs: Folder for the tasks' scripts and output.
    """
    from rich.console import Console

    from cxr_dist.shard.recipe import load_recipe
    from cxr_dist.shard.summary import print_summary

    if slurm:
        from cxr_dist.shard.array import TaskSize, write_shards_by_array

        size = TaskSize(
            cpus_per_task=slurm_cpus_per_task,
            mem_gb=slurm_mem_gb,
            minutes=slurm_minutes,
            partition=slurm_partition,
            account=slurm_account,
            sbatch=slurm_sbatch or {},
            logs=slurm_logs,
        )
        manifest = write_shards_by_array(
            load_recipe(recipe), source, out, tasks=slurm, size=size, allow_left_out=allow_left_out
        )
    else:
        import os

        from cxr_dist.shard.write import write_shards

        manifest = write_shards(
            load_recipe(recipe),
            source,
            out,
            workers=workers or os.cpu_count() or 1,
            allow_left_out=allow_left_out,
        )
    print_summary(manifest, Console())
