"""Check that what was typed exists before torch is imported, which takes seconds.

Only what no command could work with is refused here, in the words of the command line; the rooms check the content.
"""

from pathlib import Path

from cxr_dist.config.supplied import recipe_files
from cxr_dist.errors import CommandLineError, did_you_mean


def check_run_folder(folder: Path) -> None:
    """Raise CommandLineError unless the folder is one that `cxr-dist train` wrote."""
    if not (folder / "config.yaml").is_file():
        raise CommandLineError(
            f"no config.yaml in {folder}: that is not a run folder{_instead(folder)}; expected one that "
            "`cxr-dist train` wrote"
        )


def check_model_folder(folder: Path) -> None:
    """Raise CommandLineError unless the folder is a run or an exported model."""
    if not any((folder / name).is_file() for name in ("config.yaml", "config.json")):
        raise CommandLineError(
            f"no model in {folder}: expected a folder that `cxr-dist train` or `cxr-dist export` wrote"
            f"{_instead(folder)}"
        )


def check_shards(shards: str, flag: str = "--data.shards") -> None:
    """Raise CommandLineError unless the shards are a URL, or a folder that `cxr-dist shard` finished."""
    if "://" in shards or (Path(shards) / "manifest.json").is_file():
        return
    make = "`cxr-dist shard RECIPE.yaml --source DIR --out SHARDS`"
    if not shards:
        raise CommandLineError(f"no shards are given: add {flag} SHARDS, a folder that {make} wrote")
    raise CommandLineError(
        f"no manifest.json in {shards}: expected a folder that `cxr-dist shard` finished "
        f"({f'set {flag}, or ' if flag else ''}run {make}){_instead(Path(shards))}"
    )


def check_recipe_is_there(recipe: Path) -> None:
    """Raise CommandLineError unless the recipe is a file, or the name of one that comes with the package."""
    names = recipe_files()
    if not recipe.is_file() and str(recipe) not in names:
        raise CommandLineError(
            f"no recipe {recipe}{did_you_mean(recipe, names)}: expected a YAML file, or the name of a recipe of the "
            f"package, one of {', '.join(names)}"
        )


def check_file(path: Path, flag: str, expected: str) -> None:
    """Raise CommandLineError if nothing is there; `expected` says in words what should be."""
    if not path.exists():
        raise CommandLineError(f"{flag} {path} does not exist: expected {expected}{_instead(path)}")


def check_output_folder(folder: Path, flag: str = "--out") -> None:
    """Raise CommandLineError if something other than a folder has this name."""
    if folder.exists() and not folder.is_dir():
        raise CommandLineError(f"{flag} {folder} is a file: expected a folder, which is made if it is missing")


def check_evaluated(run_dir: Path, split: str) -> None:
    """Raise CommandLineError if a run folder has no evaluation of this name."""
    evaluations = run_dir / "evaluation"
    if not (run_dir / "config.yaml").is_file() or (evaluations / split / "metrics.json").is_file():
        return
    names = sorted(path.parent.name for path in evaluations.glob("*/metrics.json"))
    asked = f"--split {split}" if split in ("train", "val", "test") else f"--shards OTHER --name {split}"
    raise CommandLineError(
        f"{run_dir} has no evaluation {split!r}{did_you_mean(split, names)}: "
        + (f"expected one of {', '.join(names)}, or " if names else "")
        + f"run `cxr-dist evaluate {run_dir} {asked}`"
    )


def _instead(path: Path) -> str:
    """Suggest what lies beside a path that does not exist and has a similar name."""
    try:
        near = did_you_mean(path.name, (each.name for each in path.parent.iterdir() if each.name != path.name))
    except OSError:
        return ""
    return near.replace("?)", f" in {path.parent}?)") if near and not path.exists() else ""
