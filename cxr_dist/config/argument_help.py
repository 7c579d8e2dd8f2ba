"""The words and placeholders that `--help` shows for each argument.

tyro prints the help of a command from the types and docstrings of its function, or of the dataclass `Config`. Here
the docstrings are joined to paragraphs, which tyro then wraps to the terminal, and `Path | None` is shown as PATH.
"""

import ast
import dataclasses
import functools
import inspect
import re
import shutil
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

Switch = tyro.conf.FlagCreatePairsOff[bool]
"""A flag without a value, false unless it is given."""

_WIDEST = 100
_METAVARS: dict[Any, str] = {int: "INT", float: "FLOAT", str: "TEXT", Path: "PATH", bool: "{true,false}"}


def description_of(command: Callable[..., object]) -> str:
    """Return a command's docstring up to its arguments, wrapped to the terminal."""
    return help_paragraphs((inspect.getdoc(command) or "").split("\nArgs:")[0])


def help_paragraphs(text: str) -> str:
    """Return text with its paragraphs wrapped to the terminal."""
    paragraphs = re.split(r"\n\s*\n", text.strip())
    return "\n\n".join("\n".join(paragraph_lines(paragraph)) for paragraph in paragraphs)


def example_of(command: Callable[..., object]) -> str | None:
    """Return the example in a command's docstring, which follows `For example: `."""
    found = re.search(r"For example: (.+)", inspect.getdoc(command) or "")
    return found.group(1) if found else None


def explained(command: Callable[..., object]) -> Callable[..., Callable[[], object]]:
    """Return a function for tyro with the arguments of a command, which returns the call instead of calling it."""

    def call(*positional: Any, **named: Any) -> Callable[[], object]:
        return functools.partial(command, *positional, **named)

    signature, hints, docs = (
        inspect.signature(command),
        get_type_hints(command, include_extras=True),
        _args_docs(command),
    )
    parameters = [
        each.replace(annotation=_shown(hints[name], each.default, docs.get(name)))
        for name, each in signature.parameters.items()
    ]
    call.__annotations__ = {each.name: each.annotation for each in parameters}
    call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return call


def _args_docs(command: Callable[..., object]) -> dict[str, str]:
    """Return argument -> its words in the docstring's section `Args:`, as one paragraph."""
    section = (inspect.getdoc(command) or "").partition("\nArgs:\n")[2]
    entries = re.split(r"^ {4}(\w+): ", section, flags=re.MULTILINE)[1:]
    return {name: " ".join(text.split()) for name, text in zip(entries[::2], entries[1::2], strict=True)}


def registry() -> ConstructorRegistry:
    """Return how tyro sees dataclasses: with the docstrings below their fields as paragraphs."""
    rules = ConstructorRegistry()

    @rules.struct_rule
    def documented(info: StructTypeInfo) -> StructConstructorSpec | None:
        if not dataclasses.is_dataclass(info.type):
            return None
        hints = get_type_hints(info.type, include_extras=True)
        fields = []
        for field in dataclasses.fields(info.type):
            default = getattr(info.default, field.name, _default_of(field))
            fields.append(
                StructFieldSpec(
                    name=field.name,
                    type=_shown(hints[field.name], default),
                    default=default,
                    helptext=functools.partial(_field_help, info.type, field.name),
                )
            )
        return StructConstructorSpec(instantiate=info.type, fields=tuple(fields))

    return rules


def _default_of(field: "dataclasses.Field[Any]") -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return tyro.MISSING if field.default is dataclasses.MISSING else field.default


def _field_help(kind: type, name: str) -> str | None:
    return next((docs[name] for each in kind.__mro__ if name in (docs := _field_docs(each))), None)


@functools.cache
def _field_docs(kind: type) -> dict[str, str]:
    """Return field -> the docstring below it, as one paragraph."""
    if not dataclasses.is_dataclass(kind):
        return {}
    [definition] = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    docs = {}
    for field, below in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            docs[field.target.id] = " ".join(str(ast.literal_eval(below.value)).split())
    return docs


def _shown(hint: Any, default: Any, help_text: str | None = None) -> Any:
    """Return a type hint with the placeholder of its value and the words about its default, where tyro's are odd."""
    if dataclasses.is_dataclass(default):
        return hint
    shown = functools.partial(tyro.conf.arg, help=help_text)
    bare = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    given = [each.metavar for each in _extras(hint) if getattr(each, "metavar", None)]
    choices = [each for each in get_args(bare) or (bare,) if each is not type(None)]
    metavar = given[0] if given else None
    if Switch == hint:
        metavar = None
    elif metavar is None and get_origin(bare) not in (Literal, tuple, dict):
        names = ["{" + ",".join(get_args(c)) + "}" if get_origin(c) is Literal else _METAVARS.get(c) for c in choices]
        metavar = "|".join(map(str, names)) if all(names) else None
    if (
        default in (None, "", (), {})
        or (get_origin(bare) is tuple and default is inspect.Parameter.empty)
        or Switch == hint
    ):
        shown = functools.partial(shown, help_behavior_hint="")
    elif isinstance(default, bool):
        shown = functools.partial(shown, help_behavior_hint=f"(default: {str(default).lower()})")
    return Annotated[hint, shown(metavar=metavar)]


def _extras(hint: Any) -> list[Any]:
    """Return what annotates a hint at any depth."""
    own = list(get_args(hint)[1:]) if get_origin(hint) is Annotated else []
    inner = get_args(hint)[:1] if get_origin(hint) is Annotated else get_args(hint)
    return own + [extra for each in inner for extra in _extras(each)]


def paragraph_lines(paragraph: str, indent: str = "") -> list[str]:
    """Return the lines of a paragraph on this terminal, at most 100 wide; `indent` comes before all but the first."""
    width = max(40, min(shutil.get_terminal_size().columns, _WIDEST))
    return textwrap.wrap(
        " ".join(paragraph.split()), width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
