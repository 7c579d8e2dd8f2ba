"""RUN_DIR/parts.json: which files defined the parts of a run that its user wrote, by sha256.

    {"model.image_encoder": [{"name": "encoder.py:Net", "sha256": "…"}]}

Field by field, in the order of the configuration; parts from the package's own tables are not in it, and a run without
others has no such file. Only the file that defines a part is hashed, and not what it imports.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cxr_dist.config.decode import decode, parse_json
from cxr_dist.config.file import to_plain
from cxr_dist.config.lookup import code_sha256, recorded_name
from cxr_dist.errors import UserError
from cxr_dist.files import write_whole

_FILE = "parts.json"
_CHANGE_NO_NUMBER = ("trackers",)


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of the user's own."""

    name: str
    """MODULE:NAME or FILE.py:NAME, without the file's folder."""
    sha256: str | None
    """Of the file that defines it; None for a module without one."""


Record = dict[str, tuple[Part, ...]]
"""Field -> the parts that it names."""


@dataclass(frozen=True, kw_only=True)
class _Content:
    fields: Record


def record_of(names: Mapping[str, Sequence[str]]) -> Record:
    """The record of fields' parts, such as "loss.name": ("loss.py:loss",); imports each that is the user's own."""
    own = {field: [name for name in parts if ":" in name] for field, parts in names.items()}
    return {
        field: tuple(Part(name=recorded_name(name), sha256=code_sha256(name)) for name in parts)
        for field, parts in own.items()
        if parts
    }


def keep_parts(folder: Path, names: Mapping[str, Sequence[str]]) -> None:
    """Write a run's record, or compare its parts with the record that it has (rank 0).

    Raises UserError where a part's file is another than the run began with; of a tracker that is only said.
    """
    known, now = read_parts(folder), record_of(names)
    for field, name in changed_parts(known, now):
        if field not in _CHANGE_NO_NUMBER:
            raise UserError(
                f"{field}: {name} is defined by another file than when this run began (its sha256 differs): put that "
                "file back, or choose another --out"
            )
        print(f"{field}: {name} is defined by another file than at the last start", file=sys.stderr)
    if now != known:
        write_whole(folder / _FILE, json.dumps(to_plain(now), indent=1) + "\n")


def read_parts(folder: Path) -> Record:
    """The record of a run folder, empty where it has none; raises UserError for a damaged one."""
    if not (folder / _FILE).is_file():
        return {}
    return decode(_Content, {"fields": parse_json(folder / _FILE, _FILE)}, _FILE).fields


def changed_parts(known: Record, now: Record) -> list[tuple[str, str]]:
    """(field, name) of every part that both records have, with another sha256."""
    return [
        (field, new.name)
        for field in known.keys() & now.keys()
        for old, new in zip(known[field], now[field], strict=False)
        if old.name == new.name and old.sha256 != new.sha256
    ]
