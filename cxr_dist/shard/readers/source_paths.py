"""Resolve and check the paths that a recipe and its tables name.

Paths in the recipe and links on disk were set by the user and can lead anywhere. Paths in a table came with the data
and must stay inside the recipe's `images` folder.
"""

import os
from pathlib import Path

from cxr_dist.errors import UserError, require


def source_folder(folder: Path | None, reader: str) -> Path:
    """The --source folder; raises UserError if it is not given or not a folder."""
    if folder is None:
        raise UserError(f"reader {reader} needs --source, the folder with the data set")
    require(folder.is_dir(), f"--source {folder} is not a folder")
    return folder


def inside(folder: Path, name: str, setting: str) -> Path:
    """`folder`/`name`; raises UserError, which names the recipe's setting, if that does not exist."""
    path = folder / name
    require(path.exists(), f"no {name} in {folder}: the recipe's {setting} is relative to --source")
    return path


def image_path(images: Path, name: str) -> Path | None:
    """The image file that a table names, relative to the folder `images` or absolute; None if it lies outside."""
    relative = os.path.relpath(name, images.absolute()) if os.path.isabs(name) else os.path.normpath(name)
    return None if relative.split(os.sep)[0] == os.pardir else images / relative
