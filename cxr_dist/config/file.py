"""Write a configuration to config.yaml, read it back exactly, and compare two configurations."""

import dataclasses
from pathlib import Path
from typing import Any

import yaml

from cxr_dist.config.decode import decode, parse_yaml
from cxr_dist.config.model import RENAMED_CHECKPOINTING
from cxr_dist.config.run import Config
from cxr_dist.errors import UserError

TRAINED_ON = "trained_on.json"
"""The file of a run folder that run/trained_on.py writes at the first start of training."""


def to_yaml(config: Config) -> str:
    """Return the resolved configuration as YAML, with the fields in the order of their declaration."""
    return yaml.safe_dump(to_plain(config), sort_keys=False)


def to_plain(value: Any) -> Any:
    """Convert dataclasses, dicts and tuples, nested in any way, to the dicts and lists of JSON and YAML."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {name: to_plain(each) for name, each in value.items()}
    return [to_plain(each) for each in value] if isinstance(value, tuple) else value


def load_config(path: Path) -> Config:
    """Read a config.yaml of this or an earlier version; fields that are missing have their default.

    Raises UserError if the file is missing or not YAML, or if a field is unknown or of another type.
    """
    if not path.is_file():
        raise UserError(f"no config.yaml in {path.parent}: that is not a run folder")
    # An earlier version has trained here: the present one writes TRAINED_ON before it saves the first checkpoint.
    earlier = (path.parent / "checkpoints").is_dir() and not (path.parent / TRAINED_ON).is_file()
    return decode(Config, _migrated(parse_yaml(path), earlier), path.name)


def _migrated(plain: Any, earlier: bool) -> Any:
    """Replace values that an older release wrote by their present names; `earlier` says that it also trained."""
    if not isinstance(plain, dict):
        return plain
    model, loss, data = (plain.get(section) for section in ("model", "loss", "data"))
    if isinstance(model, dict):
        new_name = RENAMED_CHECKPOINTING.get(str(model.get("gradient_checkpointing")).lower())
        plain = plain | ({"model": model | {"gradient_checkpointing": new_name}} if new_name else {})
    # With uniform sampling both names mean the same.
    weighted = isinstance(data, dict) and data.get("sampling") == "weighted"
    if earlier and weighted and isinstance(loss, dict) and loss.get("class_weights") == "balanced":
        plain = plain | {"loss": loss | {"class_weights": "original"}}
    return plain


def differences(old: Config, new: Config) -> list[str]:
    """Return a line `section.field: old -> new` for every field that differs, except for the run folder."""

    def flatten(plain: dict[str, Any], prefix: str = "") -> dict[str, Any]:
        flat: dict[str, Any] = {}
        for name, value in plain.items():
            flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
        return flat

    a, b = flatten(to_plain(old)), flatten(to_plain(new))
    return [f"{name}: {a[name]} -> {b[name]}" for name in a if a[name] != b[name] and name != "out"]
