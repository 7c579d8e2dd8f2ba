"""Parse the arguments of a command with tyro; whatever is wrong with them is a CommandLineError of one line.

tyro prints a box for an invalid argument and exits. Here the box is read instead of printed. It may quote the value
after an unknown flag, which can be report text, so a message names only flags, and values of flags that exist.
"""

import ast
import contextlib
import dataclasses
import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, TypeVar, get_args, get_type_hints

import tyro

from cxr_dist.config.argument_help import description_of, example_of, explained, paragraph_lines, registry
from cxr_dist.config.range import in_range
from cxr_dist.errors import CommandLineError, UserError, did_you_mean

ParsedT = TypeVar("ParsedT")

_POSITIONAL = get_args(tyro.conf.Positional[Any])[1]  # type: ignore[misc]
_EXPECTED = {"INT": "a whole number", "FLOAT": "a number, such as 0.1 or 1e-4", "INT|{auto}": "a whole number or auto"}
_DESCRIPTION = "DESCRIPTION"
_NUMBER = re.compile(r"-[\d.]")


def parse_call(command: Callable[..., object], arguments: Sequence[str], prog: str) -> Callable[[], object]:
    """Return the call of a command with these arguments; `--help` prints and exits with status 0.

    Raises CommandLineError for an invalid argument. A number out of range is refused when the command is called.
    """
    call: Callable[[], object] = parse(
        explained(in_range(command)),
        arguments,
        prog,
        flags=flags_of(command),
        description=description_of(command),
        example=example_of(command),
    )
    return call


def parse(
    kind: Callable[..., ParsedT],
    arguments: Sequence[str],
    prog: str,
    *,
    flags: Sequence[str],
    description: str = "",
    example: str | None = None,
    **options: Any,
) -> ParsedT:
    """Return what tyro makes of the arguments, which `kind` declares; raises CommandLineError if they are invalid.

    Args:
        kind: A dataclass, or a function without side effects.
        arguments: The command line after `prog`.
        prog: The command in messages.
        flags: All flags, among which a message suggests one for an unknown flag.
        description: What `--help` prints before the arguments.
        example: A command that works, for the message about a missing argument.
        options: Further arguments of `tyro.cli`.
    """

    def parsed() -> ParsedT:
        described = {"prog": prog, "description": _DESCRIPTION, "registry": registry(), **options}
        result: ParsedT = tyro.cli(kind, args=_for_tyro(arguments), **described)
        return result

    if {"-h", "--help"} & set(arguments):
        with _described(description):
            return parsed()
    said = _Captured("utf-8")
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), _wide_terminal():
            return parsed()
    except SystemExit as end:
        reason = _user_error(end)
        words = str(reason) if reason else _in_one_line(_unboxed(said.getvalue()), arguments, prog, flags, example)
    raise CommandLineError(words)


def flags_of(kind: Any, prefix: str = "--") -> list[str]:
    """Return the flags of a dataclass, with those of its sections, or of a function."""
    names = []
    for name, hint in get_type_hints(kind, include_extras=True).items():
        metadata = get_args(hint)[1:]
        of = get_args(hint)[0] if metadata else hint
        shown = next((each.name for each in metadata if getattr(each, "name", None)), name).replace("_", "-")
        if dataclasses.is_dataclass(of):
            names += flags_of(of, f"{prefix}{shown}.")
        elif name != "return" and _POSITIONAL not in metadata:
            names.append(prefix + shown)
    return names


def _for_tyro(arguments: Sequence[str]) -> list[str]:
    """Replace true and false by True and False, and --slurm-FIELD by --slurm.FIELD, which tyro expects."""
    spelt = [a.capitalize() if a in ("true", "false") else a for a in arguments]
    return ["--slurm." + a.removeprefix("--slurm-") if a.startswith("--slurm-") else a for a in spelt]


class _Captured(io.StringIO):
    """Text that is printed later, with the colours and characters that standard output would have."""

    def __init__(self, encoding: str) -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """From this, tyro chooses the characters of its boxes."""
        return self._encoding

    def isatty(self) -> bool:
        return sys.__stdout__ is not None and sys.__stdout__.isatty()


@contextlib.contextmanager
def _described(description: str) -> Iterator[None]:
    """Print what tyro prints in the block, with this description; tyro itself would not wrap it to the terminal."""
    said = _Captured(sys.stdout.encoding)
    try:
        with contextlib.redirect_stdout(said):
            yield
    finally:
        usage, line_break, rest = said.getvalue().partition("\n")
        usage = "\n".join(paragraph_lines(usage, indent=" " * len("usage: ")))
        print(usage + line_break + rest.replace(_DESCRIPTION, description, 1), end="")


@contextlib.contextmanager
def _wide_terminal() -> Iterator[None]:
    """Let tyro print without wrapping lines."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "10000"
    try:
        yield
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before


def _user_error(error: BaseException) -> UserError | None:
    """Return the UserError in the handling of which this error was raised."""
    while (context := error.__context__) is not None:
        if isinstance(context, UserError):
            return context
        error = context
    return None


def _unboxed(box: str) -> list[str]:
    """Return the lines inside tyro's box without the frame; an empty line stands for a rule."""
    inside = [line.strip("│").rstrip()[1:] for line in box.splitlines() if line.startswith("│")]
    return ["" if line.startswith("─") else line for line in inside] or box.splitlines()


def _in_one_line(
    lines: Sequence[str], arguments: Sequence[str], prog: str, flags: Sequence[str], example: str | None
) -> str:
    command = prog.removeprefix("cxr-dist ")
    first = lines[: lines.index("")] if "" in lines else lines
    text = " ".join(" ".join(first).split())
    if found := re.match(r"Unrecognized options: (.+)", text):
        return _unknown_argument(found.group(1).split(", ")[0], arguments, prog, flags)
    if text.startswith("Missing from"):
        names = [line.strip() for line in first if re.match(r" {4}\S", line)]
        return f"{command} needs {' and '.join(names)}" + (f", for example: {example}" if example else "")
    if found := re.match(r"Missing value for argument '(.+?)'", text):
        return f"{found.group(1)} needs a value; see `{prog} --help`"
    if found := re.match(r"invalid choice '.*' for argument '(.+?)'\. Expected one of (\(.*\))\.", text):
        value, choices = _value_of(found.group(1), arguments), [_spelt(each) for each in _tuple(found.group(2))]
        return f"{found.group(1)} is {value!r}{did_you_mean(value, choices)}; expected one of: {', '.join(choices)}"
    if found := re.match(r"Error parsing (--\S+): ", text):
        flag = found.group(1)
        kind = next((line.removeprefix(flag).strip() for line in lines if line.strip().startswith(f"{flag} ")), "")
        kind = kind.removeprefix(flag).strip()
        return f"{flag} is {_value_of(flag, arguments)!r}; expected {_EXPECTED.get(kind, kind)}"
    return text


def _unknown_argument(token: str, arguments: Sequence[str], prog: str, flags: Sequence[str]) -> str:
    see = f"`{prog} --help` lists all flags"
    given = [each.split("=")[0] for each in arguments if each.startswith("-") and not _NUMBER.match(each)]
    for flag in (_with_hyphens(each) for each in given):
        if flag not in flags:
            return f"unknown flag {flag!r}{_nearest(flag, flags)}; {see}"
    before = next((before for before, word in pairwise(arguments) if word == token), "")
    on = next((each for each in (*given, before) if f"{each}={token}" in arguments or each == before), "")
    if _with_hyphens(on) in flags:
        return f"{on} takes no value: give it alone, or leave it out; see `{prog} --help`"
    # Words of a report that was not put in quotes are not repeated.
    shown = "" if "--report" in flags else f" {token!r}"
    command = prog.removeprefix("cxr-dist ")
    return (
        f"{command} takes no further argument{shown}; put a text that contains spaces in quotes, or see `{prog} --help`"
    )


def _nearest(flag: str, flags: Sequence[str]) -> str:
    """Suggest the flag of the same name in a section, such as --optim.lr for --lr, else the most similar one."""
    name = flag.lstrip("-").rpartition(".")[2]
    same = [each for each in flags if each.lstrip("-").rpartition(".")[2] == name]
    if len(same) == 1:
        return f" (did you mean {same[0]!r}?)"
    return did_you_mean(flag, flags)


def _value_of(flag: str, arguments: Sequence[str]) -> str:
    """Return the last value that was given for a flag; several words of a value are joined by spaces."""
    values: list[str] = []
    for i, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if _with_hyphens(name) == flag:
            following = [value] if equals else list(arguments[i + 1 :])
            end = next((j for j, each in enumerate(following) if each.startswith("--")), len(following))
            values = following[:end]
    return " ".join(values)


def _with_hyphens(flag: str) -> str:
    flag = flag.replace("_", "-")
    return "--slurm." + flag.removeprefix("--slurm-") if flag.startswith("--slurm-") else flag


def _spelt(choice: object) -> str:
    return str(choice).lower() if choice in ("True", "False") else str(choice)


def _tuple(text: str) -> tuple[object, ...]:
    with contextlib.suppress(ValueError, SyntaxError):
        return tuple(ast.literal_eval(text))
    return (text,)
