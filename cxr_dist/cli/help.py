"""The overviews that `cxr-dist --help` and `cxr-dist train --help` print, and argument types shared by commands.

An overview lists each command or named run with the first line of its docstring.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Literal

import tyro

FOLDER = Annotated[Path, tyro.conf.arg(metavar="DIR")]
SHARDS = Annotated[str, tyro.conf.arg(metavar="DIR|URL")]
Switch = tyro.conf.FlagCreatePairsOff[bool]
"""A flag without a value, false unless it is given."""
DropoutScope = Literal["head", "text", "all"]


def commands_help(commands: Mapping[str, Callable[..., object]]) -> str:
    """Return the overview of all commands, in the order of the mapping."""
    return "\n".join(
        [
            "usage: cxr-dist COMMAND …      (cxr-dist COMMAND --help for its arguments)",
            "",
            "Train chest X-ray classifiers on images and radiology reports together.",
            "Research software, not for clinical use.",
            "",
            *_lines(commands),
        ]
    )


def runs_help(command: str, runs: Mapping[str, Callable[..., object]]) -> str:
    """Return the overview of the named runs that a command accepts."""
    return "\n".join([f"usage: cxr-dist {command} RUN [--section.field VALUE …]", "", "RUN is one of", *_lines(runs)])


def _lines(functions: Mapping[str, Callable[..., object]]) -> list[str]:
    width = max(map(len, functions)) + 2
    return [f"  {name:<{width}}{(f.__doc__ or '').splitlines()[0]}" for name, f in functions.items()]
