"""A shard folder for users' own code: its tables as DataFrames, and loaders of one epoch for a training loop."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cxr_dist.config.data import DataConfig
from cxr_dist.data.batch import Batch
from cxr_dist.data.loader import evaluation_loader, training_batches, training_plan
from cxr_dist.data.origin import is_remote
from cxr_dist.data.place import open_manifest, open_store
from cxr_dist.data.plan import evaluation_batches
from cxr_dist.data.store import ShardStore
from cxr_dist.distributed.world import World
from cxr_dist.errors import require, unknown
from cxr_dist.format.manifest import SPLITS, UNKNOWN, Manifest, SplitEntry
from cxr_dist.format.stored_sample import decode_facts

if TYPE_CHECKING:
    import pandas as pd

_DEFAULT_SIZE = 224  # pixels


@dataclass(frozen=True, kw_only=True, repr=False)
class ShardFolder:
    """The shards that `cxr-dist shard` wrote to a folder."""

    data: DataConfig
    manifest: Manifest

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes in the order of labels and of a model's outputs."""
        return self.manifest.classes

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {split.samples:,}" for name, split in self.manifest.splits.items())
        names = ", ".join(self.classes[:8]) + (", …" if len(self.classes) > 8 else "")
        sections = ", ".join(self.manifest.text_sections) or "none"
        return (
            f"ShardFolder of {self.manifest.unit}: {sizes}\n"
            f"  {self.manifest.task}, {len(self.classes)} classes: {names}\n"
            f"  report sections: {sections}"
        )

    def frame(self, split: str, *, texts: bool = False) -> "pd.DataFrame":
        """Return a table with a row for each sample of a split, in the split's order.

            cxr_dist.open_shards("SHARDS").frame("test")["label"].value_counts()

        Its index is the sample's `key`. The columns are `patient` and `study`, which are opaque, and `label` with the
        name of the class, or for a multilabel task `label:CLASS` with 1, 0 or missing (unknown) for each class.

        Args:
            split: train, val or test.
            texts: Also read every sample for `view`, `sex` and `age`, where the shards have them, and for the report in
                `text:SECTION`. The table is then as private as the reports are.

        Raises UserError for a split that is empty or unknown, and for damaged shards.
        """
        import pandas as pd

        store = self._store(split)
        try:
            index = np.concatenate([store.index(number) for number in range(len(store.shards))])
            facts = list(self._facts(split)) if texts else []
        finally:
            store.close()
        table = pd.DataFrame({name: index[name].astype("U") for name in ("key", "patient", "study")}).set_index("key")
        if self.manifest.task == "multiclass":
            table["label"] = np.array(self.classes)[index["label"][:, 0]]
        else:
            for number, name in enumerate(self.classes):
                column = pd.Series(index["label"][:, number], index=table.index, dtype="Int8")
                table[f"label:{name}"] = column.mask(column == UNKNOWN)
        if texts:
            for name in self.manifest.attributes:
                table[name] = [sample.get(name) for sample in facts]
            for name in self.manifest.text_sections:
                table[f"text:{name}"] = [sample["text"].get(name, "") for sample in facts]
        return table

    def loader(
        self,
        split: str,
        *,
        batch_size: int = 32,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool | None = None,
        augment: bool | None = None,
        image_size: int | None = None,
        sections: tuple[str, ...] | None = None,
        workers: int = 0,
        seed: int = 0,
    ) -> "ShardLoader":
        """Return a loader whose every pass is one epoch of a split, for your own training loop.

            for batch in cxr_dist.open_shards("SHARDS").loader("train", batch_size=8):
                batch.images, batch.labels, batch.texts

        A batch has `images`, uint8 [n, 1, H, W], grey, 0 to 255, one per sample, or several for shards of studies, with
        `view_rows`; `labels`, int64 [b, 1], the class, or for multilabel tasks [b, classes], 1, 0 or -1 (unknown);
        `texts` and `keys`, b strings each.

        Args:
            split: train, val or test.
            batch_size: Number of samples per batch and rank.
            rank, world_size: The place of this process among those that share the epoch. With `shuffle`, all ranks have
                equally many batches, and the samples that do not fill a batch on every rank are left out, other ones in
                each epoch. Without, rank r has the batches r, r + world_size, ….
            shuffle: Whether to draw the samples in another order in each pass; by default only in train, the one split
                that can be.
            augment: Whether to rotate, shift and zoom images, by default if they are shuffled.
            image_size: Height and width in pixels; by default 224, or less if the stored images are smaller.
            sections: The report sections that `texts` joins, in this order; by default all but the impression, which
                usually states the label.
            workers: Number of processes that read; 0: this one reads.
            seed: Seed of order and augmentation, which depend on nothing else but the epoch.

        Raises UserError for a value that does not fit the shards.
        """
        entry = self._split(split)
        shuffle = split == "train" if shuffle is None else shuffle
        augment = shuffle if augment is None else augment
        require(batch_size >= 1, f"batch_size is {batch_size}; expected 1 or more samples")
        require(not shuffle or split == "train", f"only train can be shuffled, not {split}: set shuffle=False")
        require(shuffle or not augment, "only shuffled samples are augmented: set augment=False")
        known = self.manifest.text_sections
        if sections is None:
            sections = tuple(name for name in known if name != "impression")
        for name in sections:
            if name not in known:
                raise unknown("report section", name, known)
        data = replace(
            self.data,
            global_batch=batch_size * world_size,
            micro_batch=batch_size,
            evaluation_batch=batch_size,
            workers=workers,
            text_sections=sections,
            image_size=image_size or min(_DEFAULT_SIZE, self.manifest.image["short_side"]),
        )
        if not augment:
            data = replace(data, rotation_degrees=0.0, shift=0.0, zoom=0.0, flip_probability=0.0)
        if shuffle:
            batches = training_plan(data, self.manifest, seed).steps_per_epoch
        else:
            batches = len(evaluation_batches(entry.samples, batch_size, rank, world_size))
        return ShardLoader(
            self, data, split, World(rank=rank, world_size=world_size), batches, seed if shuffle else None
        )

    def _split(self, split: str) -> SplitEntry:
        if split not in SPLITS:
            raise unknown("split", split, SPLITS)
        return self.manifest.split(split)

    def _store(self, split: str) -> ShardStore:
        self._split(split)
        return open_store(self.data, self.manifest, split)

    def _facts(self, split: str) -> Iterator[dict[str, Any]]:
        store = self._store(split)
        try:
            for shard, entry in enumerate(store.shards):
                yield from (decode_facts(store.read(shard, sample)["json"]) for sample in range(entry.samples))
        finally:
            store.close()


@dataclass(frozen=True, kw_only=True)
class ImageBatch(Batch):
    """A batch of a `ShardLoader`, which always has images."""

    images: torch.Tensor


class ShardLoader:
    """Batches of one epoch in each pass, which `len` counts; `epoch` is the number of the next pass, from 0."""

    def __init__(
        self, shards: ShardFolder, data: DataConfig, split: str, world: World, batches: int, seed: int | None
    ) -> None:
        self._shards, self._data, self._split, self._world = shards, data, split, world
        self._length, self._seed, self.epoch = batches, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass, as with torch's DistributedSampler: that of a resumed training, say."""
        require(epoch >= 0, f"epoch is {epoch}; expected 0 or more")
        self.epoch = epoch

    def __len__(self) -> int:
        return self._length

    def __repr__(self) -> str:
        return f"ShardLoader of {self._split}: {len(self)} batches of {self._data.micro_batch}, next epoch {self.epoch}"

    def __iter__(self) -> Iterator[ImageBatch]:
        return (ImageBatch(**vars(batch)) for batch in self._batches_of_an_epoch())

    def _batches_of_an_epoch(self) -> Iterator[Batch]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        manifest, rank = self._shards.manifest, self._world.rank
        if self._seed is None:
            return evaluation_loader(
                self._data,
                manifest,
                self._split,
                rank=rank,
                world_size=self._world.world_size,
                tokenizer=None,
                with_images=True,
                with_texts=True,
            )
        endless = training_batches(
            self._data,
            manifest,
            training_plan(self._data, manifest, self._seed),
            lanes=range(rank, rank + 1),
            first_step=epoch * self._length,
            tokenizer=None,
            with_images=True,
            with_texts=True,
        )
        return itertools.islice(endless, self._length)


def open_shard_folder(folder: str | Path, fold: int | None = None) -> ShardFolder:
    """Open a shard folder or its URL, with test fold `fold` if it has folds; raises UserError if there is none."""
    place = str(folder) if is_remote(str(folder)) else str(Path(folder).expanduser())
    data = DataConfig(shards=place, fold=fold)
    return ShardFolder(data=data, manifest=open_manifest(data, "the folder"))
