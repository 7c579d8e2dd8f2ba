"""A configuration to config.yaml and back, exactly, and what differs between two."""

import dataclasses
from pathlib import Path
from typing import Any

import yaml

from cxr_dist.config.decode import decode, parse_yaml
from cxr_dist.config.model import RENAMED_CHECKPOINTING
from cxr_dist.config.run import Config
from cxr_dist.errors import UserError


def to_yaml(config: Config) -> str:
    """The resolved configuration as YAML, fields in the order of declaration."""
    return yaml.safe_dump(to_plain(config), sort_keys=False)


def to_plain(value: Any) -> Any:
    """A configuration, or anything made of dataclasses, dicts and tuples, as JSON and YAML have it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {name: to_plain(each) for name, each in value.items()}
    return [to_plain(each) for each in value] if isinstance(value, tuple) else value


def load_config(path: Path) -> Config:
    """Read a config.yaml that `to_yaml` wrote, of this or an earlier version, whose missing fields have their default.

    Raises UserError for a file that is missing or no YAML, and for a field that is unknown or ill-typed.
    """
    if not path.is_file():
        raise UserError(f"no config.yaml in {path.parent}: that is not a run folder")
    return decode(Config, _migrated(parse_yaml(path)), path.name)


def _migrated(plain: Any) -> Any:
    """What an older release wrote, in the words of this one; anything else as it is."""
    model = plain.get("model") if isinstance(plain, dict) else None
    if not isinstance(model, dict):
        return plain
    said = str(model.get("gradient_checkpointing")).lower()
    if said not in RENAMED_CHECKPOINTING:
        return plain
    return plain | {"model": model | {"gradient_checkpointing": RENAMED_CHECKPOINTING[said]}}


def differences(old: Config, new: Config) -> list[str]:
    """Lines `section.field: old -> new` for every field that differs, except the run folder itself."""

    def flatten(plain: dict[str, Any], prefix: str = "") -> dict[str, Any]:
        flat: dict[str, Any] = {}
        for name, value in plain.items():
            flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
        return flat

    a, b = flatten(to_plain(old)), flatten(to_plain(new))
    return [f"{name}: {a[name]} -> {b[name]}" for name in a if a[name] != b[name] and name != "out"]
