"""Receipts: a small file per shard, written after its tar and index, that says which images the shard lacks.

The manifest of an interrupted run or of a job array is assembled from the receipts, which are then removed. They
identify images by key, never by the source's names.
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
    """What was written of one shard."""

    plan: str
    """The identity of the plan that the shard belongs to."""
    entry: ShardEntry | None
    """None if no image was readable: then there is no tar."""
    left_out: dict[str, str]
    """The reason for each image that could not be read, by the image's key."""


def write_receipt(out: Path, stem: str, receipt: Receipt) -> None:
    """Record that the shard's files are whole; raises UserError if the disk is full."""
    write_whole(_path(out, stem), json.dumps(dataclasses.asdict(receipt)))


def read_receipt(out: Path, stem: str, plan: str) -> Receipt | None:
    """Return the shard's receipt if it belongs to this plan and its files exist in full length, else None."""
    path = _path(out, stem)
    try:
        receipt = decode(Receipt, parse_json(path, path.name), path.name)
    except UserError as error:
        if out_of_files(error):
            raise
        return None
    if receipt.plan != plan:
        return None
    if entry := receipt.entry:
        tar = out / entry.file
        if not tar.is_file() or tar.stat().st_size != entry.bytes or not (out / entry.index).is_file():
            return None
    return receipt


def count_left_out(receipts: Iterable[Receipt]) -> Counter[str]:
    """Return the number of images that the shards lack, by reason."""
    return Counter(reason for receipt in receipts for reason in receipt.left_out.values())


def _path(out: Path, stem: str) -> Path:
    return out / UNFINISHED / f"{stem}.json"
