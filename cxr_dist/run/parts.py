"""RUN_DIR/parts.json: the SHA-256 of the files that define the user's own parts of a run.

    {"model.image_encoder": [{"name": "encoder.py:Net", "sha256": "…"}]}

Fields are in the order of the configuration. The package's own parts are not listed, and a run that uses no others has
no such file. Only the file that defines a part is hashed, not the modules that it imports.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cxr_dist.config.decode import decode, parse_json
from cxr_dist.config.file import to_plain
from cxr_dist.config.lookup import code_sha256, recorded_name
from cxr_dist.errors import UserError, printable
from cxr_dist.files import write_whole

PARTS = "parts.json"
_CHANGE_NO_NUMBER = ("trackers",)


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part that the user wrote."""

    name: str
    """MODULE:NAME or FILE.py:NAME, without the folder of the file."""
    sha256: str | None
    """SHA-256 of the file that defines the part; None for a module without a file."""


PartsRecord = dict[str, tuple[Part, ...]]
"""Configuration field -> the user's own parts that it names."""


@dataclass(frozen=True, kw_only=True)
class _Content:
    fields: PartsRecord


def record_of(names: Mapping[str, Sequence[str]]) -> PartsRecord:
    """Record the parts of fields, such as "loss.name": ("loss.py:loss",). Imports the parts that the user wrote."""
    own = {field: [name for name in parts if ":" in name] for field, parts in names.items()}
    return {
        field: tuple(Part(name=recorded_name(name), sha256=code_sha256(name)) for name in parts)
        for field, parts in own.items()
        if parts
    }


def keep_parts(folder: Path, names: Mapping[str, Sequence[str]]) -> None:
    """Write the record of a run, or compare its parts with the existing record (rank 0).

    Raises UserError if the file of a part has changed since the run began. A tracker that has changed is only reported.
    """
    known, now = read_parts(folder), record_of(names)
    for field, name in changed_parts(known, now):
        if field not in _CHANGE_NO_NUMBER:
            raise UserError(
                f"{field}: {name} is defined by another file than when this run began (its sha256 differs): put "
                "that file back, or choose another --out"
            )
        print(printable(f"{field}: {name} is defined by another file than at the last start"), file=sys.stderr)
    if now != known:
        write_whole(folder / PARTS, json.dumps(to_plain(now), indent=1) + "\n")


def read_parts(folder: Path) -> PartsRecord:
    """The record of a run folder; empty if there is no parts.json. Raises UserError if the file is damaged."""
    if not (folder / PARTS).is_file():
        return {}
    return decode(_Content, {"fields": parse_json(folder / PARTS, PARTS)}, PARTS).fields


def changed_parts(known: PartsRecord, now: PartsRecord) -> list[tuple[str, str]]:
    """(field, name) of the parts that are in both records with different hashes."""
    return [
        (field, new.name)
        for field in known.keys() & now.keys()
        for old, new in zip(known[field], now[field], strict=False)
        if old.name == new.name and old.sha256 != new.sha256
    ]
