"""That a shard is whole, and which films it lacks: a small file per shard, written after the shard's own two.

An interrupted run, and the tasks of a job array, are put together from these; they go when the manifest is there.
They name samples by key, never by the source's names.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cxr_dist.config.decode import decode, parse_json
from cxr_dist.errors import UserError, out_of_files
from cxr_dist.files import write_whole
from cxr_dist.format.manifest import ShardEntry
from cxr_dist.shard.output_folder import UNFINISHED


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """One shard as it was written."""

    plan: str
    """Identity of the plan that it belongs to."""
    entry: ShardEntry | None
    """None where no film was readable: then there is no tar."""
    left_out: dict[str, str]
    """Film's key -> reason, of each film that could not be read."""


def write_receipt(out: Path, stem: str, receipt: Receipt) -> None:
    """Say that the shard's files are whole; raises UserError where the disk is full."""
    write_whole(_path(out, stem), json.dumps(dataclasses.asdict(receipt)))


def read_receipt(out: Path, stem: str, plan: str) -> Receipt | None:
    """The shard's receipt, where it is of this plan and the files that it speaks of are there in their length."""
    path = _path(out, stem)
    try:
        receipt = decode(Receipt, parse_json(path, path.name), path.name)
    except UserError as error:
        if out_of_files(error):
            raise
        return None
    whole = receipt.entry is None or _are_there(out, receipt.entry)
    return receipt if receipt.plan == plan and whole else None


def count_left_out(receipts: Iterable[Receipt]) -> Counter[str]:
    """Reason -> number of films that the shards lack."""
    return Counter(reason for receipt in receipts for reason in receipt.left_out.values())


def _path(out: Path, stem: str) -> Path:
    return out / UNFINISHED / f"{stem}.json"


def _are_there(out: Path, entry: ShardEntry) -> bool:
    tar = out / entry.file
    return tar.is_file() and tar.stat().st_size == entry.bytes and (out / entry.index).is_file()
