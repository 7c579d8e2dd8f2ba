"""Write a configuration to config.yaml, read it back exactly, and compare two configurations."""

import dataclasses
from pathlib import Path
from typing import Any

import yaml

from cxr_dist.config.decode import decode, parse_yaml
from cxr_dist.config.model import RENAMED_CHECKPOINTING
from cxr_dist.config.named import RUNS, named_run
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
        raise UserError(f"no config.yaml in {path.parent}: that is not a run folder, which `cxr-dist train` writes")
    return decode(Config, _migrated(parse_yaml(path), _is_earlier(path)), path.name)


def settings_in(path: Path, run: str | None = None) -> Config:
    """Read a file with some or all fields of a configuration, such as the config.yaml of a run folder.

    Fields that are missing are those of the named run `run`, or of the one that the file names in its field `run`.
    Raises UserError if the file is missing or not YAML, if neither names a run or they name different ones, or if a
    field is unknown or of another type.
    """
    if not path.is_file():
        raise UserError(f"no file {path}: expected YAML with settings, such as the config.yaml of a run folder")
    plain = _migrated(parse_yaml(path), _is_earlier(path))
    if not isinstance(plain, dict):
        raise UserError(f"{path.name}: expected settings, such as `run: enhanced`, one a line")
    own = plain.get("run", run)
    if own is None:
        raise UserError(
            f"{path.name} does not say from which named run to start: add `run: enhanced` to it, or one of "
            f"{', '.join(RUNS)}"
        )
    if run not in (None, own):
        raise UserError(f"{path.name} has settings of run {own!r}, but {run!r} was named: leave one of them out")
    base = named_run(own) if isinstance(own, str) and own in RUNS else Config()
    return decode(Config, _merged(to_plain(base), plain), path.name, by_hand=True)


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Replace fields of `base`, section by section."""
    both = {name: (base.get(name), value) for name, value in changes.items()}
    return base | {
        name: _merged(old, new) if isinstance(old, dict) and isinstance(new, dict) else new
        for name, (old, new) in both.items()
    }


def _is_earlier(path: Path) -> bool:
    """Whether an earlier version has trained here: the present one writes TRAINED_ON before its first checkpoint."""
    return (path.parent / "checkpoints").is_dir() and not (path.parent / TRAINED_ON).is_file()


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
