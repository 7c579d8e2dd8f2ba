"""The command `cxr-dist shard`, which runs on this machine or, with --slurm, as a job array."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import Positional

from cxr_dist.cli.ending import interruptible
from cxr_dist.cli.help import FOLDER, RECIPE
from cxr_dist.cli.paths import check_file, check_recipe_is_there
from cxr_dist.config.range import Range
from cxr_dist.config.slurm import SlurmResources

if TYPE_CHECKING:
    from cxr_dist.format.manifest import Manifest


def shard(
    recipe: Positional[RECIPE],
    *,
    out: FOLDER,
    source: FOLDER | None = None,
    workers: Annotated[int, Range(min=0)] = 0,
    allow_left_out: Annotated[float, Range(min=0, max=1)] = 0.01,
    slurm: Annotated[int, Range(min=0)] = 0,
    resources: Annotated[SlurmResources, tyro.conf.arg(name="slurm")] = SlurmResources(),  # noqa: B008
) -> None:
    """Write a data set as WebDataset shards with an index and a manifest.

    For example: cxr-dist shard openi --source openi --out data/shards

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
    check_recipe_is_there(recipe)
    if source is not None:
        check_file(source, "--source", "the folder of the data set")
    from rich.console import Console

    from cxr_dist.shard.summary import print_summary

    with interruptible(lambda: "finished shards are kept, and the same command continues"):
        manifest = _written(recipe, source, out, workers, allow_left_out, slurm, resources)
    print_summary(manifest, Console())


def _written(
    recipe: Path,
    source: Path | None,
    out: Path,
    workers: int,
    allow_left_out: float,
    slurm: int,
    resources: SlurmResources,
) -> "Manifest":
    from cxr_dist.shard.recipe import load_recipe

    if slurm:
        from cxr_dist.shard.array import write_shards_by_array

        return write_shards_by_array(
            load_recipe(recipe), source, out, tasks=slurm, resources=resources, allow_left_out=allow_left_out
        )
    from cxr_dist.shard.write import write_shards

    workers = workers or os.cpu_count() or 1
    return write_shards(load_recipe(recipe), source, out, workers=workers, allow_left_out=allow_left_out)
