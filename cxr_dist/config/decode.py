"""Decode YAML and JSON into frozen dataclasses: a run's config.yaml, a recipe, an exported model's config.json.

Fields may be dataclasses, literals, unions, tuples, dicts, text, numbers and booleans. An error names the file, the
path of the field in it, what was found there and what was expected.
"""

import dataclasses
import json
import sys
import types
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from cxr_dist.errors import UserError, did_you_mean, out_of_files, require
from cxr_dist.files import read_regular

DataclassT = TypeVar("DataclassT")

_WORDS: dict[Any, str] = {
    str: "text (put it in quotes)",
    int: "a whole number",
    float: "a number, as 0.1 or 1.0e-4",
    bool: "true or false",
    types.NoneType: "null",
}


def parse_yaml(path: Path) -> object:
    """Parse a YAML file; raises UserError if it cannot be read, is not YAML or contains a key twice."""
    return _parsed(path, path.name, "YAML", lambda text: yaml.load(text, _UniqueKeys))


def parse_json(path: Path, name: str) -> object:
    """Parse a JSON file, which errors call `name`; raises UserError as `parse_yaml` does."""
    return _parsed(path, name, "JSON", lambda text: json.loads(text, object_pairs_hook=_unique))


def parse_record(path: Path, name: str) -> dict[str, Any]:
    """Parse a JSON file that holds an object; raises UserError as `parse_json` does, and for anything else."""
    record = parse_json(path, name)
    if not isinstance(record, dict):
        raise UserError(f"{name} holds no record: expected a JSON object")
    return record


def decode(kind: type[DataclassT], plain: object, file: str, *, by_hand: bool = False) -> DataclassT:
    """Convert parsed YAML or JSON to the dataclass `kind`.

    Args:
        kind: A dataclass, whose fields may be dataclasses. A field with a default may be missing.
        plain: The result of `parse_yaml` or `parse_json`.
        file: The name of the file in errors.
        by_hand: Accept a number where text is expected, and a single value where a list is expected, for files that
            people write.

    Raises UserError if a field is unknown, missing or of another type, or if a dataclass rejects its value.
    """
    decoded = _Decoder(file=file, by_hand=by_hand).value(kind, plain, "")
    assert isinstance(decoded, kind)
    return decoded


def decode_lists(plain: object, file: str) -> dict[str, tuple[str, ...]]:
    """Convert parsed YAML that people write, NAME: [TEXT, …] pairs, to lists of text by name; else raises UserError."""
    lists: dict[str, tuple[str, ...]] = _Decoder(file=file, by_hand=True).value(dict[str, tuple[str, ...]], plain, "")
    return lists


class _UniqueKeys(yaml.SafeLoader):
    """The loader of yaml.safe_load, except that a repeated key is an error."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in seen:
                problem = f"the key {key.value!r} occurs twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add((key.tag, str(key.value)))
        return node


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    for name, count in Counter(name for name, _ in pairs).items():
        require(count == 1, f"the key {name!r} occurs twice")
    return dict(pairs)


def _parsed(path: Path, name: str, language: str, parse: Callable[[str], object]) -> object:
    try:
        return parse(read_regular(path).decode("utf-8"))
    except OSError as error:
        if too_many := out_of_files(error):
            raise too_many from None
        what = f"cannot be read ({error.strerror})"
    except UnicodeDecodeError as error:
        what = f"is not UTF-8 text (byte {error.start})"
    except RecursionError:
        what = "is nested too deeply"
    except Exception as error:  # PyYAML raises many types of errors, such as ValueError for a 13th month
        mark = getattr(error, "problem_mark", None)
        why = f"line {mark.line + 1}: {getattr(error, 'problem', '')}" if mark else str(error).split("\n")[0]
        what = f"is not {language} ({why})"
    raise UserError(f"{name} {what}")


@dataclass(frozen=True, kw_only=True)
class _Decoder:
    """The argument `where` is the path of a field in the file, such as model.mode; empty for the whole file."""

    file: str
    by_hand: bool

    def value(self, kind: Any, plain: Any, where: str) -> Any:
        kinds = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
        for each in kinds:
            if dataclasses.is_dataclass(each) and isinstance(plain, dict):
                return self._dataclass(each, plain, where)  # type: ignore[arg-type]
            if get_origin(each) is dict and isinstance(plain, dict):
                return self._dict(get_args(each)[1], plain, where)
            if get_origin(each) is tuple and (self.by_hand or isinstance(plain, list)):
                return self._tuple(each, plain, where)
            if self._fits(each, plain):
                return each(plain) if each in (str, float) else plain
        names = [name for each in kinds if get_origin(each) is Literal for name in get_args(each)]
        hint = did_you_mean(plain, map(str, names)) if isinstance(plain, str) else ""
        expected = ", or ".join(map(_expected, kinds))
        raise UserError(f"{self._at(where)} is {_shown(plain)}; expected {expected}{hint}")

    def _dataclass(self, kind: type, plain: dict[Any, Any], where: str) -> Any:
        hints, values = _hints(kind), {}
        for name, value in plain.items():
            path = f"{where}.{name}".removeprefix(".")
            if name not in hints:
                hint = f"{did_you_mean(name, hints)}; expected one of: {', '.join(hints)}"
                raise UserError(f"{self.file}: unknown field {path}{hint}")
            values[name] = self.value(hints[name], value, path)
        for field in dataclasses.fields(kind):
            required = field.default is field.default_factory  # both are MISSING
            path = f"{where}.{field.name}".removeprefix(".")
            require(field.name in plain or not required, f"{self._at(path)} is missing")
        try:
            return kind(**values)
        except UserError as error:
            raise UserError(f"{self.file}: {error}") from None

    def _dict(self, kind: Any, plain: dict[Any, Any], where: str) -> dict[str, Any]:
        decoded = {
            self.value(str, name, where): self.value(kind, value, f"{where}.{name}".removeprefix("."))
            for name, value in plain.items()
        }
        require(len(decoded) == len(plain), f"{self._at(where)} has a name twice, once as a number")
        return decoded

    def _tuple(self, kind: Any, plain: Any, where: str) -> tuple[Any, ...]:
        kinds = get_args(kind)
        if not isinstance(plain, list):
            return (self.value(kinds[0], plain, where),)
        if ... in kinds:
            kinds = kinds[:1] * len(plain)
        length = f"is a list of {len(plain)}; expected {_expected(kind)}"
        require(len(plain) == len(kinds), f"{self._at(where)} {length}")
        return tuple(self.value(kinds[i], each, f"{where}[{i}]") for i, each in enumerate(plain))

    def _fits(self, kind: Any, plain: Any) -> bool:
        number = isinstance(plain, int | float) and not isinstance(plain, bool)
        if get_origin(kind) is Literal:
            return any(plain == name and type(plain) is type(name) for name in get_args(kind))
        if kind is float:
            return number and abs(plain) <= sys.float_info.max  # false for NaN
        if kind is int:
            return number and isinstance(plain, int) and abs(plain) < 2**63
        return (kind in _WORDS and isinstance(plain, kind)) or (kind is str and number and self.by_hand)

    def _at(self, where: str) -> str:
        return f"{self.file}: {where}" if where else self.file


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _expected(kind: Any) -> str:
    origin, of = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind):
        return f"the fields {', '.join(_hints(kind))}"  # type: ignore[arg-type]
    if origin is tuple:
        return "a list" if ... in of else f"a list of {len(of)}"
    if origin is Literal:
        return f"one of: {', '.join(map(str, of))}"
    return "NAME: VALUE pairs" if origin is dict else _WORDS[kind]


def _shown(plain: Any) -> str:
    if plain is None:
        return "empty"
    if isinstance(plain, dict | list):
        return "a list" if isinstance(plain, list) else "NAME: VALUE pairs"
    if isinstance(plain, int) and plain.bit_length() > 64:
        return "a number of too many digits"
    text = repr(plain)
    return text if len(text) <= 60 else f"{text[:60]}…"
