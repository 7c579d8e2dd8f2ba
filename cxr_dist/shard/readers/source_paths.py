"""The paths that a recipe and its tables name, checked: errors say which setting led to nothing, or too far.

The recipe is the user's and may lead anywhere, as may links on disk. A table came with the data: it stays inside.
"""

import os
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


def film_path(images: Path, name: str) -> Path | None:
    """The film that a table names, relative to the folder `images` or absolute; None where that is outside of it."""
    relative = os.path.relpath(name, images.absolute()) if os.path.isabs(name) else os.path.normpath(name)
    return None if relative.split(os.sep)[0] == os.pardir else images / relative
