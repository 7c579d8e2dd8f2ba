"""The command `cxr-dist shard`, which runs on this machine or, with --slurm, as a job array."""

import os
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from cxr_dist.cli.help import FOLDER
from cxr_dist.config.range import Range
from cxr_dist.config.slurm import SlurmResources


def shard(
    recipe: Positional[Path],
    *,
    out: FOLDER,
    source: FOLDER | None = None,
    workers: Annotated[int, Range(min=0)] = 0,
    allow_left_out: Annotated[float, Range(min=0, max=1)] = 0.01,
    slurm: Annotated[int, Range(min=0)] = 0,
    resources: Annotated[SlurmResources, tyro.conf.arg(name="slurm")] = SlurmResources(),  # noqa: B008
) -> None:
    """Write a data set as WebDataset shards with an index and a manifest.

    Args:
        recipe: YAML file that says what to read and how, or the name of a recipe that `cxr-dist recipes` lists.
        out: Folder for the shards. Running the command again with the same recipe continues, or does nothing.
        source: Folder of the data set (the demo reader needs none).
        workers: Number of processes on this machine; 0: one per core.
        allow_left_out: Largest fraction of rows that may be unreadable or missing, 0 to 1.
        slurm: Number of tasks of a SLURM job array that writes the shards; 0: write them on this machine. The command
            waits for the array. All machines must see recipe, source, out and logs.
        resources: Resources of each task of the array. --slurm-partition and --slurm.partition are the same flag.
    """
    from rich.console import Console

    from cxr_dist.shard.recipe import load_recipe
    from cxr_dist.shard.summary import print_summary

    if slurm:
        from cxr_dist.shard.array import write_shards_by_array

        manifest = write_shards_by_array(
            load_recipe(recipe), source, out, tasks=slurm, resources=resources, allow_left_out=allow_left_out
        )
    else:
        from cxr_dist.shard.write import write_shards

        workers = workers or os.cpu_count() or 1
        manifest = write_shards(load_recipe(recipe), source, out, workers=workers, allow_left_out=allow_left_out)
    print_summary(manifest, Console())
