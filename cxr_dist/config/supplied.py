"""The folders of recipes, job scripts and launchers that come with the package: shards/, slurm/ and launch/.

They lie at the top of the repository. A wheel has copies of them in cxr_dist/site/.
"""

import itertools
import re
import shutil
from pathlib import Path

from cxr_dist.errors import UserError, unknown

SUPPLIED = ("shards", "slurm", "launch")
_PACKAGE = Path(__file__).resolve().parents[1]


def supplied(folder: str) -> Path:
    """Return the path of one of the folders `SUPPLIED`, of the installed package or of the checkout."""
    installed = _PACKAGE / "site" / folder
    return installed if installed.is_dir() else _PACKAGE.parent / folder


def recipe_files() -> dict[str, Path]:
    """Return name -> file of the recipes that come with the package."""
    return {path.stem: path for path in sorted(supplied("shards").glob("*.yaml"))}


def recipe_file(name: str) -> Path:
    """Return the file of the recipe of this name, such as openi; raises UserError for an unknown name."""
    files = recipe_files()
    if name not in files:
        raise unknown("recipe", name, files)
    return files[name]


def described_recipes() -> dict[str, str]:
    """Return name -> what the data set is, in words, of each recipe that comes with the package."""
    return {name: _description(path.read_text(encoding="utf-8")) for name, path in recipe_files().items()}


def _description(recipe: str) -> str:
    """Return the beginning of the comment that a recipe starts with, up to the first full stop or colon."""
    lines = itertools.takewhile(lambda line: re.match(r"# \S", line), recipe.splitlines())
    return re.split(r"[.:](?= |$)", " ".join(line.removeprefix("# ") for line in lines))[0]


def lay_down(folder: Path) -> int:
    """Copy the folders `SUPPLIED` into `folder` and return the number of files; raises UserError if one exists."""
    sources = {name: [path for path in sorted(supplied(name).rglob("*")) if _is_content(path)] for name in SUPPLIED}
    files = {folder / name / path.relative_to(supplied(name)): path for name in SUPPLIED for path in sources[name]}
    present = [name for name in SUPPLIED if (folder / name).exists()]
    if present:
        raise UserError(
            f"{folder} already has {', '.join(f'{name}/' for name in present)}, and nothing is overwritten: choose "
            "another folder, or move it away"
        )
    for new, path in files.items():
        new.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, new)  # with its permissions
    return len(files)


def _is_content(path: Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts
