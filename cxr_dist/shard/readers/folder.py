"""The paths that a recipe names, checked: errors say which setting led to nothing."""

from pathlib import Path

from cxr_dist.errors import UserError


def source_folder(folder: Path | None, reader: str) -> Path:
    """The --source folder; raises UserError where it is not given or not a folder."""
    if folder is None:
        raise UserError(f"reader {reader} needs --source, the folder that holds the data set")
    if not folder.is_dir():
        raise UserError(f"--source {folder} is not a folder")
    return folder


def inside(folder: Path, name: str, setting: str) -> Path:
    """`folder`/`name`; raises UserError, naming the recipe's setting, where nothing is there."""
    path = folder / name
    if not path.exists():
        raise UserError(f"no {name} in {folder}: the recipe's {setting} is relative to --source")
    return path
