"""The command `cxr-dist shard`: here, or with --slurm as a job array."""

from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from cxr_dist.cli.help import FOLDER
from cxr_dist.config.slurm import SlurmResources


def shard(
    recipe: Positional[Path],
    *,
    out: FOLDER,
    source: FOLDER | None = None,
    workers: int = 0,
    allow_left_out: float = 0.01,
    slurm: int = 0,
    resources: Annotated[SlurmResources, tyro.conf.arg(name="slurm")] = SlurmResources(),  # noqa: B008
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
        resources: What each task of the array gets. --slurm-partition and --slurm.partition are the same flag.
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
