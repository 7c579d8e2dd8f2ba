"""The overviews that `cxr-dist --help` and `cxr-dist train --help` print, and argument types shared by commands.

An overview lists each command or named run with the first line of its docstring.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Literal

import tyro

from cxr_dist.config.argument_help import description_of, paragraph_lines

FOLDER = Annotated[Path, tyro.conf.arg(metavar="DIR")]
RUN_DIR = Annotated[Path, tyro.conf.arg(metavar="RUN_DIR")]
RUN_DIRS = tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN_DIR …")]]
RECIPE = Annotated[Path, tyro.conf.arg(metavar="RECIPE")]
SHARDS_FOLDER = Annotated[Path, tyro.conf.arg(metavar="SHARDS")]
SHARDS = Annotated[str, tyro.conf.arg(metavar="DIR|URL")]
DropoutScope = Literal["head", "text", "all"]


def commands_help(commands: Mapping[str, Callable[..., object]]) -> str:
    """Return the overview of all commands, in the order of the mapping."""
    return "\n".join(
        [
            "usage: cxr-dist COMMAND …",
            "",
            *paragraph_lines("Train chest X-ray classifiers on images and radiology reports together."),
            *paragraph_lines("Research software, not for clinical use."),
            "",
            *_lines(commands),
            "",
            *paragraph_lines("cxr-dist COMMAND --help shows its arguments, and cxr-dist --version the version."),
        ]
    )


def runs_help(command: Callable[..., object], runs: Mapping[str, Callable[..., object]]) -> str:
    """Return the overview of the named runs that a command accepts, with what the command does and an example."""
    name = command.__name__
    return "\n".join(
        [
            f"usage: cxr-dist {name} RUN [--FIELD VALUE …]",
            f"       cxr-dist {name} --config FILE [--FIELD VALUE …]",
            "",
            description_of(command),
            "",
            "RUN is one of",
            *_lines(runs),
            "",
            *paragraph_lines(
                f"cxr-dist {name} RUN --help lists all flags. FILE is a config.yaml of a run folder, or a file of your "
                "own with some of its fields, such as `run: enhanced`; flags take precedence over it."
            ),
        ]
    )


def entries(described: Mapping[str, str], indent: str = "") -> list[str]:
    """Return the lines of a list of names, each with its description beside it, wrapped to the terminal."""
    width = max(map(len, described)) + 2
    return [line for name, text in described.items() for line in _entry(f"{indent}{name:<{width}}", text)]


def _lines(functions: Mapping[str, Callable[..., object]]) -> list[str]:
    described = {name: (function.__doc__ or "").splitlines()[0] for name, function in functions.items()}
    return entries(described, "  ")


def _entry(start: str, text: str) -> list[str]:
    lines = paragraph_lines("x" * len(start) + text, " " * len(start))
    return [start + lines[0][len(start) :], *lines[1:]]
