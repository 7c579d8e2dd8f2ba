"""The commands `recipes` and `init` for the files that come with the package, and `submit`."""

import sys
from collections.abc import Sequence
from typing import Annotated

import tyro
from tyro.conf import Positional

from cxr_dist.cli.ending import interruptible
from cxr_dist.cli.help import FOLDER, entries
from cxr_dist.config import supplied
from cxr_dist.config.argument_help import help_paragraphs


def recipes(name: Positional[Annotated[str, tyro.conf.arg(metavar="[NAME]")]] = "", /) -> None:
    """List the recipes that come with the package, or print one, as a start for your own.

    `cxr-dist shard NAME …` takes each of them by its name.

    For example: cxr-dist recipes openi

    Args:
        name: Name of the recipe to print, such as openi.
    """
    if name:
        print(supplied.recipe_file(name).read_text(encoding="utf-8"), end="")
        return
    described = supplied.described_recipes()
    print("\n".join(entries(described)), end="\n\n")
    print(
        help_paragraphs(
            "Print one with `cxr-dist recipes NAME`; shard with `cxr-dist shard NAME --source DIR --out SHARDS`."
        )
    )


def init(folder: Positional[FOLDER], /) -> None:
    """Write a site's own copies of the recipes, SLURM job scripts and launchers to a folder.

    For example: cxr-dist init my-site

    Args:
        folder: The folder, which is made if it is missing. Existing files are never overwritten.
    """
    with interruptible(lambda: f"{folder} may hold some of the files; remove them to start again"):
        written = supplied.lay_down(folder)
    print(f"{folder} now holds {', '.join(f'{name}/' for name in supplied.SUPPLIED)} ({written} files).")
    print("Edit them for your cluster. In that folder, with this Python:")
    print(f"  export CXR_DIST_PYTHON={sys.executable}")
    print("  cxr-dist shard shards/RECIPE.yaml --source DIR --out data/shards")
    print("  sbatch slurm/enhanced.sh")


def submit(arguments: Sequence[str]) -> None:
    """Submit a training run, or a sweep of runs, as a SLURM job with submitit."""
    from cxr_dist.launch.submit import run_command

    sys.exit(run_command(arguments, "cxr-dist submit"))
