"""The format of a shard folder: manifest.json, and an index of fixed-size records beside each tar.

    SHARDS/manifest.json  train-00000.tar  train-00000.index.npy  val-00000.tar  ...  keys.csv (private)

An index is a plain NumPy array (no pickle). Record i describes sample i of the tar and holds the byte ranges of its
members, so that a sample is read with one positioned read. Indices take about 100 bytes per sample and are read
into memory: memory-mapping them would need one file descriptor per shard, which can exceed the process's limit.
"""

import dataclasses
import errno
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
from cxr_dist.files import read_regular
from cxr_dist.format.index_checks import index_is_sound
from cxr_dist.format.shard_list import MOST_LISTED, plain_shards, shards_of, write_table
from cxr_dist.format.shard_list import ShardEntry as ShardEntry

SHARD_FORMAT = "cxr_dist shards"
SHARD_FORMAT_VERSION = 2  # version 2 added the manifest's own sha256
SPLITS = ("train", "val", "test")
UNKNOWN = -1  # label value of a class that was not assessed
MOST_VIEWS = 8  # images of one sample

Task = Literal["multiclass", "multilabel"]


def index_dtype(num_labels: int, views: int = 1) -> np.dtype[np.void]:
    """Return the record type of one sample.

    `num_labels` is 1 for multiclass (the label is the class), else the number of classes (each label is 1, 0 or -1).
    `group` is the sampling group: the class for multiclass; for multilabel the rarest positive class, or the number
    of classes if none is positive. `offset` and `size` cover the whole sample in the tar, with headers and padding;
    `crc32` is the zlib.crc32 of these bytes and is checked at every read. The offsets and sizes of jpg and json cover
    the members' content; all offsets count from the start of the tar. If a sample has up to `views` images, the jpg
    fields are arrays of that length, in which missing images come last and have size 0.
    """
    per_view = () if views == 1 else (views,)
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
            ("jpg_offset", "<i8", per_view),
            ("jpg_size", "<i4", per_view),
            ("json_offset", "<i8"),
            ("json_size", "<i4"),
        ]
    )


@dataclass(frozen=True, kw_only=True)
class SplitEntry:
    """The train, val or test split, or a fold."""

    samples: int
    patients: int
    label_counts: dict[str, dict[str, int]]
    """Class name -> {"positive": n, "negative": n, "unknown": n}."""
    shards: Sequence[ShardEntry]
    """A tuple, or a `ShardTable` if there are very many shards."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of manifest.json, which describes a shard folder."""

    recipe: dict[str, Any]
    """The resolved recipe, so that the folder records how it was made."""
    reader: str
    """The name of a built-in reader, or MODULE:NAME or FILE.py:NAME without folders."""
    task: Task
    classes: tuple[str, ...]
    text_sections: tuple[str, ...]
    split_by: str
    """`patient`, `study` or `image`."""
    image: dict[str, int]
    """`short_side` (pixels) and `quality` of the JPEGs; for studies also `views`, the most images of a sample."""
    made_data: bool
    """True for synthetic data such as the demo's phantoms: every result computed from it must say so."""
    source_rows: int
    left_out: dict[str, int]
    """Number of source rows that are in no split, by reason."""
    splits: dict[str, SplitEntry]
    """train, val and test, or fold0, fold1, … if the recipe's split has folds."""
    attributes: tuple[str, ...] = ()
    """Those of view, sex and age that at least one sample has; results can be broken down by them."""
    redacted: dict[str, int] = field(default_factory=dict)
    """How often each of the recipe's `redact` terms was replaced in the samples' text sections."""
    without_text: int = 0
    """Number of samples without any text, e.g. because the report is missing; 0 if the source has no reports."""
    source_sha256: str = ""
    """The sha256 of the source's rows, ids, labels and texts, but not of its pixels."""
    labels_from: str = ""
    """The origin of the labels according to the user's own reader; empty for built-in readers."""
    labels_in_reports: str = ""
    """How the labels were derived from the reports according to the user's own reader, if they were."""
    boxes: dict[str, Any] = field(default_factory=dict)
    """`stored`: split or fold -> class -> number of boxes; `left_out`: reason -> number. Empty without boxes."""
    fold: int | None = None
    """The test fold, once folds.py has made train, val and test of the folds; None in the manifest of a folder."""

    @property
    def num_labels(self) -> int:
        """The width of the index's label field."""
        return 1 if self.task == "multiclass" else len(self.classes)

    @property
    def views(self) -> int:
        """The largest number of images of a sample; 1 if each image is a sample."""
        return self.image.get("views", 1)

    @property
    def unit(self) -> str:
        """The plural noun for samples: images or studies."""
        return "images" if self.views == 1 else "studies"

    @property
    def label_source(self) -> str:
        """The origin of the labels: what the user's own reader says, or the name of the built-in reader."""
        return self.labels_from or self.reader

    @property
    def split_rule(self) -> str:
        """The unit that is never divided between splits, and whether the published split is used."""
        if self.folds:
            return f"{self.split_by}, {self.folds} folds" + ("" if self.fold is None else f", test fold {self.fold}")
        official = self.recipe.get("split", {}).get("official")
        return f"{self.split_by}, as published" if official else self.split_by

    @property
    def folds(self) -> int:
        """The number of folds that the shards were divided into; 0 if they have train, val and test instead."""
        return int(self.recipe.get("split", {}).get("folds") or 0)

    def split(self, name: str) -> SplitEntry:
        """Return a split by name; raises UserError if it is missing or empty."""
        if name not in self.splits or self.splits[name].samples == 0:
            filled = [s for s in self.splits if self.splits[s].samples]
            raise UserError(f"split {name!r} is empty or missing; the shards have: {', '.join(filled)}")
        return self.splits[name]

    def to_json(self) -> str:
        """Return the text of manifest.json, which ends with the sha256 of everything before it."""
        head = {"format": SHARD_FORMAT, "format_version": SHARD_FORMAT_VERSION}
        splits = {
            name: dataclasses.asdict(dataclasses.replace(split, shards=())) | {"shards": plain_shards(split.shards)}
            for name, split in self.splits.items()
        }
        plain = head | dataclasses.asdict(dataclasses.replace(self, splits={})) | {"splits": splits}
        # These fields were added later: manifests that do not need them keep their bytes.
        for name, empty in (("labels_from", ""), ("labels_in_reports", ""), ("boxes", {}), ("fold", None)):
            if plain[name] == empty:
                del plain[name]
        text = json.dumps(plain, indent=1, ensure_ascii=False).removesuffix("\n}")
        return f'{text},\n "sha256": "{_sha256(text)}"\n}}\n'

    @classmethod
    def from_json(cls, text: str, where: Path) -> "Manifest":
        """Parse the text of the file `where`; raises UserError for another format or version, or for changed bytes."""
        folder, name = where.parent, where.name
        try:
            plain = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"{name} is not JSON (line {error.lineno}): run `cxr-dist shard` again") from None
        if not isinstance(plain, dict) or plain.pop("format", None) != SHARD_FORMAT:
            raise UserError(f"{name} is not a manifest of cxr_dist shards")
        version = plain.pop("format_version", None)
        if version != SHARD_FORMAT_VERSION:
            raise UserError(
                f"{name} has format version {version}; this release reads version {SHARD_FORMAT_VERSION}: "
                "shard the data again, or use the release that wrote it"
            )
        content, _, _ = text.rpartition(",\n")
        if f',\n "sha256": "{_sha256(content)}"\n}}\n' != text[len(content) :]:
            raise UserError(
                f"{name} does not have the bytes that were written (its sha256 differs): copy it again from where the "
                "shards were made, or shard the data again"
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
                raise UserError(f"{name} has samples of more than {MOST_VIEWS} images: shard the data again")
            if any(list(split.label_counts) != list(plain["classes"]) for split in plain["splits"].values()):
                raise UserError(f"{name} counts the labels of other classes than its own: shard the data again")
            return cls(**plain)
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{name} has missing or unknown fields ({error}): shard the data again") from None


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def with_tables(manifest: Manifest, folder: Path) -> Manifest:
    """Write a table to `folder` for each split of more than MOST_LISTED shards; return a manifest that refers to it."""
    splits = {
        name: dataclasses.replace(split, shards=write_table(folder / f"{name}.shards.npy", split.shards))
        if len(split.shards) > MOST_LISTED
        else split
        for name, split in manifest.splits.items()
    }
    return dataclasses.replace(manifest, splits=splits)


def tables_in(text: str) -> dict[str, str]:
    """Return {name: sha256} of the tables that a manifest's text refers to; an empty dict for any other text."""
    return dict(re.findall(r'"table": "([A-Za-z0-9_-]+\.shards\.npy)",\s*"sha256": "([0-9a-f]{64})"', text))


def load_manifest(folder: Path, flag: str = "--data.shards") -> Manifest:
    """Read FOLDER/manifest.json; raises UserError if it is missing, damaged or of another version.

    `flag` is the flag by which the command at hand is told the folder.
    """
    path = folder / "manifest.json"
    try:
        content = read_regular(path)
    except OSError as error:
        absent = isinstance(error, FileNotFoundError | NotADirectoryError) or error.errno == errno.EINVAL
        raise out_of_files(error) or UserError(
            f"no manifest.json in {folder}: expected a folder that `cxr-dist shard` finished "
            f"(set {flag}, or run `cxr-dist shard RECIPE.yaml --source DIR --out SHARDS`)"
            if absent
            else f"manifest.json in {folder} cannot be read: {error.strerror}"
        ) from None
    return Manifest.from_json(content.decode("utf-8", errors="replace"), path)


def open_index(folder: Path, shard: ShardEntry, num_labels: int, views: int = 1) -> NDArray[np.void]:
    """Read a shard's index, shape [samples]; raises UserError if it is missing or does not fit the manifest."""
    try:
        content = read_regular(folder / shard.index)
    except OSError as error:
        raise out_of_files(error) or _damaged(shard) from None
    return index_in(content, shard, num_labels, views)


def index_in(content: bytes, shard: ShardEntry, num_labels: int, views: int = 1) -> NDArray[np.void]:
    """Return the index that `content` holds, shape [samples], as a view; raises UserError if it does not fit."""
    file = io.BytesIO(content)
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("not the version that the writer uses")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        index = np.frombuffer(content, dtype, offset=file.tell())  # refuses pickled objects
    except Exception:  # for a damaged header, numpy's parser raises ValueError, tokenize.TokenError, ...
        raise _damaged(shard) from None
    if index.dtype != index_dtype(num_labels, views) or not shape == index.shape == (shard.samples,):
        raise UserError(f"{shard.index} does not fit the manifest: run `cxr-dist verify`")
    if not index_is_sound(index, shard.bytes, len(shard.group_counts)):
        raise UserError(f"{shard.index} has a sample that cannot be in its shard: shard the data again")
    return index


def _damaged(shard: ShardEntry) -> UserError:
    return UserError(f"{shard.index} is missing or damaged: run `cxr-dist verify`")
