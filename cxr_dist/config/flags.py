"""From a named run or a file, and the flags of a command line, to a configuration, for all that starts a run."""

from collections.abc import Sequence
from pathlib import Path

from tyro.conf import FlagConversionOff

from cxr_dist.config.command_line import flags_of, parse
from cxr_dist.config.file import settings_in
from cxr_dist.config.model import RENAMED_CHECKPOINTING
from cxr_dist.config.named import RUNS, named_run
from cxr_dist.config.run import Config
from cxr_dist.errors import CommandLineError, UserError

_FILE = "--config"


def config_of(
    run: str | None, flags: Sequence[str], prog: str, description: str = "", *, others: Sequence[str] = ()
) -> Config:
    """Return a named run with `--section.field VALUE` flags applied.

    With `--config FILE` among the flags, the file's fields replace those of the run, which the file may also name
    itself (`run` is then None). `--help` prints and exits. Raises UserError for an invalid name, file or flag; the
    message may suggest one of `others`, the flags that the command takes out of the arguments before.
    """
    file, rest = _split(flags)
    default = _named(run or "") if file is None else settings_in(file, run)
    return parse(
        Config,
        _renamed(rest),
        prog,
        flags=[*flags_of(Config), _FILE, *others],
        description=description,
        default=default,
        config=(FlagConversionOff,),
    )


def names_a_run(arguments: Sequence[str]) -> bool:
    """Whether the arguments begin with a run, or name a file with `--config`."""
    return bool(arguments) and (not arguments[0].startswith("-") or _split(arguments)[0] is not None)


def _named(run: str) -> Config:
    path = Path(run)
    for file in (path, path / "config.yaml"):
        if run not in RUNS and file.is_file():
            raise CommandLineError(f"{run!r} is not the name of a run; to start from its configuration: {_FILE} {file}")
    try:
        return named_run(run)
    except UserError as error:
        raise CommandLineError(str(error)) from None


def _split(flags: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Return the value of the last `--config`, and the other flags."""
    file, rest, waiting = None, [], False
    for flag in flags:
        if waiting:
            file, waiting = Path(flag), False
        elif flag == _FILE:
            waiting = True
        elif flag.startswith(_FILE + "="):
            file = Path(flag.removeprefix(_FILE + "="))
        else:
            rest.append(flag)
    if waiting:
        raise CommandLineError(f"{_FILE} needs a value: a YAML file with settings, such as runs/enhanced/config.yaml")
    return file, rest


def _renamed(flags: Sequence[str]) -> list[str]:
    """Replace the values true and false of --model.gradient-checkpointing in older scripts by their present names."""
    return [
        RENAMED_CHECKPOINTING.get(value.lower(), value)
        if flag.replace("_", "-") == "--model.gradient-checkpointing"
        else value
        for flag, value in zip(["", *flags], flags, strict=False)
    ]
