"""YAML into typed dataclasses: a file in, a frozen dataclass of dataclasses out.

Knows dataclasses, optional and literal values, text, numbers, lists of text and dicts of these. An error names
the field by its path in the file, what was found there and what was expected.
"""

import dataclasses
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from cxr_dist.errors import UserError


def from_yaml(kind: type, path: Path) -> Any:
    """Read `path` as a `kind`; raises UserError for broken YAML, and for a field unknown, missing or ill-typed."""
    try:
        plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        raise UserError(f"{path.name} is not YAML" + (f" (line {mark.line + 1})" if mark else "")) from None
    return _typed(kind, plain, "")


def _require(condition: bool, where: str, message: str) -> None:
    if not condition:
        raise UserError(f"recipe: {where or 'the file'} {message}")


def _at(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _typed(kind: Any, plain: Any, where: str) -> Any:
    origin = get_origin(kind)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, plain, where)  # type: ignore[arg-type]
    if origin in (Union, types.UnionType):
        return _union(get_args(kind), plain, where)
    if origin is Literal:
        valid = ", ".join(get_args(kind))
        _require(plain in get_args(kind), where, f"is {plain!r}; expected one of: {valid}")
        return plain
    if origin is tuple:
        values = plain if isinstance(plain, list) else [plain]
        return tuple(_typed(str, value, where) for value in values)
    if origin is dict:
        return _dict(get_args(kind)[1], plain, where)
    return _scalar(kind, plain, where)


def _dataclass(kind: type, plain: Any, where: str) -> Any:
    hints = get_type_hints(kind)
    valid = ", ".join(hints)
    _require(isinstance(plain, dict), where, f"holds {type(plain).__name__}; expected the fields {valid}")
    unknown = [str(name) for name in plain if name not in hints]
    if unknown:
        raise UserError(f"recipe: unknown field {_at(where, unknown[0])}; expected one of: {valid}")
    for f in dataclasses.fields(kind):
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        _require(f.name in plain or not required, _at(where, f.name), "is missing")
    return kind(**{name: _typed(hints[name], value, _at(where, name)) for name, value in plain.items()})


def _union(kinds: tuple[Any, ...], plain: Any, where: str) -> Any:
    if plain is None and type(None) in kinds:
        return None
    made = [kind for kind in kinds if dataclasses.is_dataclass(kind)]
    others = [kind for kind in kinds if kind is not type(None) and kind not in made]
    return _typed(made[0] if made and isinstance(plain, dict) else others[0], plain, where)


def _dict(kind: Any, plain: Any, where: str) -> dict[str, Any]:
    _require(isinstance(plain, dict), where, f"holds {type(plain).__name__}; expected NAME: VALUE pairs")
    return {_typed(str, name, where): _typed(kind, plain[name], _at(where, str(name))) for name in plain}


def _scalar(kind: type, plain: Any, where: str) -> Any:
    number = isinstance(plain, int | float) and not isinstance(plain, bool)
    if kind is str and number:
        return str(plain)  # a label value 1, or a folder 2024, without quotes in the YAML
    if kind is float and number:
        return float(plain)
    valid = {str: "text (put it in quotes)", int: "a whole number", float: "a number", bool: "true or false"}
    right = isinstance(plain, kind) and (kind is bool or not isinstance(plain, bool))
    _require(right, where, f"is {plain!r}; expected {valid[kind]}")
    return plain
