"""Resolve and check the paths that a recipe and its tables name.

Paths in the recipe and links on disk were set by the user and can lead anywhere. Paths in a table came with the data
and must stay inside the recipe's `images` folder.
"""

import glob
import os
from collections.abc import Callable
from functools import partial
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


def only_file(folder: Path, pattern: str, setting: str) -> Path:
    """The file `folder`/`pattern`, which may contain `*`; raises UserError if no file or several files fit it."""
    if not _is_pattern(folder, pattern):
        return inside(folder, pattern, setting)
    fitting = sorted(glob.glob(pattern, root_dir=folder))
    require(
        len(fitting) == 1,
        f"{len(fitting)} files in {folder} fit {pattern} {fitting[:3] or ''}, which the recipe's {setting} names "
        "relative to --source; expected one: name the file in the recipe",
    )
    return folder / fitting[0]


def image_finder(folder: Path, images: str) -> Callable[[str], Path | None]:
    """The function from an image's name in a table to its path, which is None if it lies outside `folder`/`images`.

    `images` may contain `*` and `**` (glob) and then names several folders, each with images of its own. Raises
    UserError if there is no such folder, or if two of them have an image of the same name.
    """
    if not _is_pattern(folder, images):
        return partial(image_path, inside(folder, images, "images"))
    folders = sorted(
        Path(folder, name) for name in glob.glob(os.path.join(images, ""), root_dir=folder, recursive=True)
    )
    require(bool(folders), f"no folder in {folder} fits {images}: the recipe's images is relative to --source")
    places: dict[str, Path] = {}
    for each in folders:
        for entry in os.scandir(each):
            if entry.is_file() and places.setdefault(entry.name, each / entry.name) != each / entry.name:
                raise UserError(
                    f"an image of the same name is in two of the {len(folders)} folders that fit the recipe's images "
                    f"({images}), {places[entry.name].parent.name} and {each.name}: keep one of the two"
                )
    return lambda name: places.get(name) or image_path(folders[0], name)


def _is_pattern(folder: Path, name: str) -> bool:
    return "*" in name and not (folder / name).exists()


def image_path(images: Path, name: str) -> Path | None:
    """The image file that a table names, relative to the folder `images` or absolute; None if it lies outside."""
    relative = os.path.relpath(name, images.absolute()) if os.path.isabs(name) else os.path.normpath(name)
    return None if relative.split(os.sep)[0] == os.pardir else images / relative
