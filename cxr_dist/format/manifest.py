"""The shard folder's format: manifest.json, and an index of fixed-size records beside each tar.

    SHARDS/manifest.json  train-00000.tar  train-00000.index.npy  val-00000.tar  ...  keys.csv (private)

The writer fills these in, everything else reads them. An index is a plain NumPy array (no pickle): record i is
sample i of the tar, with the byte range of its members, so that reading a sample is one positioned read and never
a walk through the tar. Indices are read whole: about 100 bytes a sample, and a memory map of each would hold a
descriptor, of which a process may have fewer than there are shards.
"""

import dataclasses
import hashlib
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cxr_dist.errors import UserError, out_of_files
from cxr_dist.format.index_checks import index_is_sound
from cxr_dist.format.shard_list import MOST_LISTED, plain_shards, shards_of, write_table
from cxr_dist.format.shard_list import ShardEntry as ShardEntry

FORMAT = "cxr_dist shards"
FORMAT_VERSION = 2  # 2: with a sha256 of itself
SPLITS = ("train", "val", "test")
UNKNOWN = -1  # label value of a class that was not assessed
MOST_VIEWS = 8  # films of one sample

Task = Literal["multiclass", "multilabel"]


def index_dtype(num_labels: int, views: int = 1) -> np.dtype[Any]:
    """Record of one sample. `num_labels` is 1 for multiclass (the class), else the number of classes (1, 0, -1).

    `group` is the sampling group: the class for multiclass; for multilabel the rarest positive class, or
    the number of classes where none is positive. `offset` and `size` are the bytes of the whole sample in the
    tar, headers and padding included, and `crc32` is theirs (zlib.crc32), checked at every read; the offsets
    and sizes of jpg and json are those of the members' content, counted from the start of the tar. Where a sample
    has up to `views` films, those of jpg are arrays of that length; a film that is missing has size 0, and is last.
    """
    films = () if views == 1 else (views,)
    return np.dtype(
        [
            ("key", "S32"),
            ("study", "S16"),
            ("patient", "S16"),
            ("group", "<i2"),
            ("label", "<i2", (num_labels,)),
            ("offset", "<i8"),
            ("size", "<i4"),
            ("crc32", "<u4"),
            ("jpg_offset", "<i8", films),
            ("jpg_size", "<i4", films),
            ("json_offset", "<i8"),
            ("json_size", "<i4"),
        ]
    )


@dataclass(frozen=True, kw_only=True)
class SplitEntry:
    """One split: train, val or test."""

    samples: int
    patients: int
    label_counts: dict[str, dict[str, int]]
    """Class name -> {"positive": n, "negative": n, "unknown": n}."""
    shards: Sequence[ShardEntry]
    """A tuple; where there are very many, a `ShardTable`."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What is in a shard folder, as manifest.json says it."""

    recipe: dict[str, Any]
    """The recipe as it was resolved, so that the folder says how it was made."""
    reader: str
    """A name of ours, or MODULE:NAME or FILE.py:NAME without folders."""
    task: Task
    classes: tuple[str, ...]
    text_sections: tuple[str, ...]
    split_by: str
    """`patient`, `study` or `image`."""
    image: dict[str, int]
    """short_side (pixels) and quality of the stored JPEGs; `views`, the most films of a sample, if samples are
    studies."""
    made_data: bool
    """True for the demo's phantoms: every result made from it must say so."""
    source_rows: int
    left_out: dict[str, int]
    """Reason -> number of source rows that are in no split."""
    splits: dict[str, SplitEntry]
    attributes: tuple[str, ...] = ()
    """Which of view, sex and age at least one sample has: what results can be looked at by."""
    redacted: dict[str, int] = field(default_factory=dict)
    """Term of the recipe's redact -> how often it was replaced in the samples' text sections."""
    without_text: int = 0
    """Samples of a source with reports whose text sections are all empty, e.g. because the report is missing."""
    source_sha256: str = ""
    """Of all that the reader found but the pixels: rows, ids, labels, texts."""
    labels_from: str = ""
    """What a reader of the user's own says of the labels' origin; empty for ours."""
    labels_in_reports: str = ""
    """How it says that the labels were made from the reports, if they were."""

    @property
    def num_labels(self) -> int:
        """Width of the index's label field."""
        return 1 if self.task == "multiclass" else len(self.classes)

    @property
    def views(self) -> int:
        """Most films of a sample; 1 where each film is a sample."""
        return self.image.get("views", 1)

    @property
    def unit(self) -> str:
        """What a sample is, in the plural."""
        return "images" if self.views == 1 else "studies"

    @property
    def label_source(self) -> str:
        """A reader of ours, which says where labels come from, or what the user's own says of it."""
        return self.labels_from or self.reader

    @property
    def split_rule(self) -> str:
        """What the split never divides, and whether it is the one that was published with the data."""
        official = self.recipe.get("split", {}).get("official")
        return f"{self.split_by}, as published" if official else self.split_by

    def split(self, name: str) -> SplitEntry:
        """A split by name; raises UserError where there is none, or it is empty."""
        if name not in self.splits or self.splits[name].samples == 0:
            filled = [s for s in self.splits if self.splits[s].samples]
            raise UserError(f"split {name!r} is empty or missing; the shards have: {', '.join(filled)}")
        return self.splits[name]

    def to_json(self) -> str:
        """The text of manifest.json, which ends with a sha256 of all before it; the same manifest, the same text."""
        head = {"format": FORMAT, "format_version": FORMAT_VERSION}
        splits = {name: _plain_split(split) for name, split in self.splits.items()}
        plain = head | dataclasses.asdict(dataclasses.replace(self, splits={})) | {"splits": splits}
        for name in (
            "labels_from",
            "labels_in_reports",
        ):  # came later: the manifests of our readers keep their bytes
            if not plain[name]:
                del plain[name]
        text = json.dumps(plain, indent=1, ensure_ascii=False).removesuffix("\n}")
        return f'{text},\n "sha256": "{_sha256(text)}"\n}}\n'

    @classmethod
    def from_json(cls, text: str, where: Path) -> "Manifest":
        """Parse the text of the file `where`; raises UserError for another format or version, or a changed byte."""
        folder, name = where.parent, where.name
        try:
            plain = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"{name} is not JSON (line {error.lineno}): run `cxr-dist shard` again") from None
        if not isinstance(plain, dict) or plain.pop("format", None) != FORMAT:
            raise UserError(f"{name} is not a manifest of cxr_dist shards")
        version = plain.pop("format_version", None)
        if version != FORMAT_VERSION:
            raise UserError(
                f"{name} has format version {version}; this release reads version {FORMAT_VERSION}: "
                "shard the data again, or use the release that wrote it"
            )
        content, _, _ = text.rpartition(",\n")
        if f',\n "sha256": "{_sha256(content)}"\n}}\n' != text[len(content) :]:
            raise UserError(
                f"{name} does not have the bytes that were written (its sha256): copy it again from where the shards "
                "were made, or shard the data again"
            )
        del plain["sha256"]
        try:
            plain["splits"] = {
                split: SplitEntry(**entry | {"shards": shards_of(entry["shards"], folder)})
                for split, entry in plain["splits"].items()
            }
            plain["classes"] = tuple(plain["classes"])
            plain["text_sections"] = tuple(plain["text_sections"])
            plain["attributes"] = tuple(plain.get("attributes", ()))
            if plain["image"].get("views", 1) not in range(1, MOST_VIEWS + 1):
                raise UserError(f"{name} has samples of more than {MOST_VIEWS} films: shard the data again")
            return cls(**plain)
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{name} lacks or adds a field ({error}): run `cxr-dist shard` again") from None


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _plain_split(split: SplitEntry) -> dict[str, Any]:
    return dataclasses.asdict(dataclasses.replace(split, shards=())) | {"shards": plain_shards(split.shards)}


def with_tables(manifest: Manifest, folder: Path) -> Manifest:
    """The manifest with the shards of each split that has more than MOST_LISTED in a table, written to `folder`."""
    splits = {
        name: dataclasses.replace(split, shards=write_table(folder / f"{name}.shards.npy", split.shards))
        if len(split.shards) > MOST_LISTED
        else split
        for name, split in manifest.splits.items()
    }
    return dataclasses.replace(manifest, splits=splits)


def tables_in(text: str) -> dict[str, str]:
    """Name -> sha256 of the tables that the text of a manifest refers to; of any other text none."""
    return dict(re.findall(r'"table": "([A-Za-z0-9_-]+\.shards\.npy)",\s*"sha256": "([0-9a-f]{64})"', text))


def load_manifest(folder: Path) -> Manifest:
    """Read SHARDS/manifest.json; raises UserError where it is missing or of another version."""
    path = folder / "manifest.json"
    if not path.is_file():
        raise UserError(
            f"no manifest.json in {folder}: expected a folder that `cxr-dist shard` finished "
            "(set --data.shards, or run `cxr-dist shard RECIPE.yaml --source DIR --out SHARDS`)"
        )
    return Manifest.from_json(path.read_text(encoding="utf-8", errors="replace"), path)


def open_index(folder: Path, shard: ShardEntry, num_labels: int, views: int = 1) -> NDArray[Any]:
    """Read a shard's index, shape [samples]; raises UserError where it is missing or does not fit."""
    try:
        content = (folder / shard.index).read_bytes()
    except OSError as error:
        raise out_of_files(error) or _damaged(shard) from None
    return index_in(content, shard, num_labels, views)


def index_in(content: bytes, shard: ShardEntry, num_labels: int, views: int = 1) -> NDArray[Any]:
    """The index in a file's bytes, as a view of them, shape [samples]; raises UserError where it does not fit."""
    file = io.BytesIO(content)
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("another version than the writer's")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        index = np.frombuffer(content, dtype, offset=file.tell())  # refuses pickled objects
    except Exception:  # numpy's parser of a damaged header raises ValueError, tokenize.TokenError, ...
        raise _damaged(shard) from None
    if index.dtype != index_dtype(num_labels, views) or not shape == index.shape == (shard.samples,):
        raise UserError(f"{shard.index} does not fit the manifest: run `cxr-dist verify`")
    if not index_is_sound(index, shard.bytes, len(shard.group_counts)):
        raise UserError(f"{shard.index} has a sample that cannot be in its shard: shard the data again")
    return index


def _damaged(shard: ShardEntry) -> UserError:
    return UserError(f"{shard.index} is missing or damaged: run `cxr-dist verify`")
