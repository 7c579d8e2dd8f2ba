"""Streams of micro-batches as webdataset pipelines: a source of samples is followed by small stages.

    source    reads (epoch, lane, step), or the range of an evaluation batch, into a list of decoded sample dicts
              (read.py): "jpg" is grey uint8 [h, w], "json" is a dict
    own       --data.stages: applies the user's functions to each training sample (own_stages.py)
    pairs     contrastive pretraining: draws an image and sentences of each sample (report_pairs.py)
    collate   warps each image into uint8 [n, 1, H, W] and tokenizes the reports, which gives a Batch

A stage is a function from an iterator to an iterator. Worker j of M makes the rank's micro-batches j, j + M, ..., and
the DataLoader returns them in order. A worker returns an error as a value, so that the user sees no traceback.
"""

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import webdataset
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from cxr_dist.config.data import DataConfig
from cxr_dist.data.augment import Augmentation, warp
from cxr_dist.data.batch import Batch
from cxr_dist.data.draws import samples_of
from cxr_dist.data.own_stages import Stage, own_stages
from cxr_dist.data.packing import packed_positions
from cxr_dist.data.place import open_store
from cxr_dist.data.plan import Plan, augmentation_key, evaluation_batches, group_weights
from cxr_dist.data.read import Read, Replacing, SampleDict, reader
from cxr_dist.data.report_pairs import drawn_pairs
from cxr_dist.data.store import ShardError, ShardStore
from cxr_dist.data.swap import Swap
from cxr_dist.data.text import ReportTokenizer, report_text
from cxr_dist.data.views import image_keys, row_table
from cxr_dist.data.workers import (
    check_open_files,
    ending_its_workers,
    in_shared_memory,
    naming_dead_workers,
    start_worker,
)
from cxr_dist.errors import UserError, out_of_files
from cxr_dist.format.manifest import Manifest
from cxr_dist.format.shard_list import column
from cxr_dist.format.stored_sample import image_names

Samples = list[SampleDict]


def training_plan(config: DataConfig, manifest: Manifest, seed: int) -> Plan:
    """The plan of the training split, with uniform weights or weights by the inverse frequency of the groups."""
    counts = column(manifest.split("train").shards, "group_counts")
    temper = config.sampling_temper if config.sampling == "weighted" else 0.0
    return Plan(
        shard_group_counts=counts,
        weights=group_weights(counts.sum(axis=0), temper),
        global_batch=config.global_batch,
        micro_batch=config.global_batch // config.num_lanes,
        seed=seed,
        shuffle_shards=config.shuffle_shards,
    )


class TrainingSource(IterableDataset[Samples]):
    """An endless stream of the rank's micro-batches from a given step on: step by step, and lane by lane in a step."""

    def __init__(self, read: Replacing, plan: Plan, lanes: range, first_step: int) -> None:
        self.read, self.plan, self.lanes, self.first_step = read, plan, lanes, first_step
        self._windows: dict[int, tuple[tuple[int, int], list[tuple[int, int, int]]]] = {}

    def __iter__(self) -> Iterator[Samples]:
        worker, num_workers = _worker()
        for number in itertools.count(worker, num_workers):
            steps, place = divmod(number, len(self.lanes))
            epoch, step = divmod(self.first_step + steps, self.plan.steps_per_epoch)
            yield self.micro_batch(epoch, step, self.lanes[place])

    def micro_batch(self, epoch: int, step: int, lane: int) -> Samples:
        """The samples of (epoch, step in the epoch, lane). This is a pure function of its arguments and the plan."""
        size = self.plan.micro_batch
        rows = [self._at(epoch, lane, position) for position in range(step * size, (step + 1) * size)]
        keys = augmentation_key(self.plan.seed, epoch, np.array([draw for draw, _, _ in rows]))
        return [
            self.read(epoch, draw, shard, sample) | {"sample_id": draw, "augmentation_key": key}
            for (draw, shard, sample), key in zip(rows, keys, strict=True)
        ]

    def _at(self, epoch: int, lane: int, position: int) -> tuple[int, int, int]:
        """(draw, shard, sample) at a position of a lane. The samples of a lane's current window are cached."""
        window, place = divmod(position, self.plan.window)
        known, rows = self._windows.get(lane, ((-1, -1), []))
        if known != (epoch, window):
            draws = self.plan.window_draws(epoch, lane, window)
            shards, samples = samples_of(self.plan, self.read.store, epoch, draws)
            rows = list(zip(draws.tolist(), shards.tolist(), samples.tolist(), strict=True))
            self._windows[lane] = (epoch, window), rows
            if self.read.store.staged:
                self._expect(epoch, lane, window)
        return rows[place]

    def _expect(self, epoch: int, lane: int, window: int) -> None:
        """Start to copy the shards of a lane's new window, and then those of its next window."""
        last = (window + 1) * self.plan.window >= self.plan.draws_per_lane
        upcoming = []
        for e, w in ((epoch, window), (epoch + 1, 0) if last else (epoch, window + 1)):
            shards, _ = self.plan.locate(e, self.plan.window_draws(e, lane, w))
            upcoming += list(dict.fromkeys(shards.tolist()))
        current = {shard for _, rows in self._windows.values() for _, shard, _ in rows}
        self.read.store.expect(current, upcoming)


class EvaluationSource(IterableDataset[Samples]):
    """The samples of the rank's canonical evaluation batches, each once and in order."""

    def __init__(self, store: ShardStore, read: Read, batches: list[range], swap: Swap | None = None) -> None:
        self.store, self.read, self.batches, self.swap, self._shard = store, read, batches, swap, -1
        self.first = np.concatenate([[0], np.cumsum(column(store.shards, "samples"))])

    def __iter__(self) -> Iterator[Samples]:
        worker, num_workers = _worker()
        with contextlib.closing(self.store):
            for batch in self.batches[worker::num_workers]:
                yield [self._read(sample_id) for sample_id in batch]

    def _read(self, sample_id: int) -> SampleDict:
        shard = int(np.searchsorted(self.first, sample_id, side="right")) - 1
        if shard != self._shard:  # sample ids ascend, so a shard is never needed again after the next one
            self._shard = shard
            self.store.expect({shard}, range(shard + 1, min(shard + 3, len(self.store.shards))))
        sample = self.read(shard, sample_id - int(self.first[shard])) | {"sample_id": sample_id}
        return sample if self.swap is None else self.swap.applied(sample, self._donor(int(self.swap.donors[sample_id])))

    def _donor(self, sample_id: int) -> SampleDict:
        """A sample anywhere in the split, read without a change of what is expected next."""
        shard = int(np.searchsorted(self.first, sample_id, side="right")) - 1
        return self.read(shard, sample_id - int(self.first[shard]))


def collate(
    image_size: int | None,
    augmentation: Augmentation,
    tokenizer: ReportTokenizer | None,
    sections: tuple[str, ...],
    views: int = 1,
    with_texts: bool = False,
) -> Stage:
    """The stage that turns a list of decoded samples, with up to `views` images each, into a Batch."""

    def warped(samples: Samples) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        if image_size is None:
            return None, None
        names = [image_names(sample) for sample in samples]
        stored = [sample[name] for sample, own in zip(samples, names, strict=True) for name in own]
        rows = None if views == 1 else row_table([len(own) for own in names], views)
        keys = np.array([sample.get("augmentation_key", 0) for sample in samples], np.uint64)
        images = np.empty((len(stored), 1, image_size, image_size), np.uint8)
        maps = augmentation.matrices([image.shape for image in stored], image_size, image_keys(keys, rows))
        for image, matrix, out in zip(stored, maps, images, strict=True):
            warp(image, matrix, out[0])
        return torch.from_numpy(images), None if rows is None else torch.from_numpy(rows)

    def stage(batches: Iterator[Samples]) -> Iterator[Batch]:
        for samples in batches:
            texts = [report_text(sample["json"], sections) for sample in samples]
            tokens, mask = tokenizer(texts) if tokenizer else (None, None)
            images, view_rows = warped(samples)
            yield Batch(
                images=images,
                view_rows=view_rows,
                tokens=tokens,
                attention_mask=mask,
                token_positions=None if mask is None else packed_positions(mask),
                labels=torch.tensor(np.stack([s["record"]["label"] for s in samples]), dtype=torch.int64),
                groups=torch.tensor([int(s["record"]["group"]) for s in samples]),
                sample_ids=torch.tensor([s["sample_id"] for s in samples]),
                texts=tuple(texts) if with_texts else (),
                keys=tuple(s["__key__"] for s in samples) if with_texts else (),
                report_ids=torch.tensor([s["report_ids"] for s in samples]) if "report_ids" in samples[0] else None,
                replaced=tuple(s["replaced"] for s in samples if "replaced" in s),
            )

    return stage


def _worker() -> tuple[int, int]:
    info = get_worker_info()
    return (info.id, info.num_workers) if info else (0, 1)


@dataclass(frozen=True)
class _Failure:
    """The message of a worker's error, sent to the training process."""

    message: str


def _errors_as_values(batches: Iterator[Batch]) -> Iterator[Batch | _Failure]:
    """The last stage. Without it the DataLoader would add a traceback to the message."""
    try:
        for batch in batches:
            yield batch if get_worker_info() is None else in_shared_memory(batch)
    except (UserError, OSError) as error:
        reason = out_of_files(error) or error
        if not isinstance(reason, UserError):
            raise
        yield _Failure(str(reason))


def _in_order(loader: DataLoader[Batch | _Failure]) -> Iterator[Batch]:
    items = ending_its_workers(loader)
    while True:
        with naming_dead_workers(items):
            item = next(items, None)
        if item is None:
            return
        if isinstance(item, _Failure):
            raise ShardError(item.message)
        yield item


def _loader(source: IterableDataset[Samples], stages: list[Stage], workers: int) -> Iterator[Batch]:
    check_open_files(workers)
    loader = DataLoader(
        webdataset.DataPipeline(source, *stages, _errors_as_values),
        batch_size=None,
        num_workers=workers,
        worker_init_fn=start_worker,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=4 if workers else None,
        multiprocessing_context="fork" if workers else None,
    )
    return _in_order(loader)


def training_batches(
    config: DataConfig,
    manifest: Manifest,
    plan: Plan,
    *,
    lanes: range,
    first_step: int,
    tokenizer: ReportTokenizer | None,
    with_images: bool,
    with_texts: bool = False,
    pairs_of: int | None = None,
) -> Iterator[Batch]:
    """An endless stream of the rank's micro-batches from a global step on: for each step one per lane, in order.

    `pairs_of`: each sample has one of its images and this number of sentences of its report (report_pairs.py).
    """
    size = config.image_size if with_images else None
    store = open_store(config, manifest, "train")
    read = reader(store, manifest.image["short_side"], size)
    replacing = Replacing(store, read, plan.seed, replace=config.max_bad_samples > 0)
    source = TrainingSource(replacing, plan, lanes, first_step)
    views = manifest.views if pairs_of is None else 1
    drawn = [] if pairs_of is None else [drawn_pairs(config.text_sections, pairs_of)]
    to_batch = collate(size, Augmentation.of(config), tokenizer, config.text_sections, views, with_texts)
    return _loader(source, [*own_stages(config.stages), *drawn, to_batch], config.workers)


def evaluation_loader(
    config: DataConfig,
    manifest: Manifest,
    split: str,
    *,
    rank: int,
    world_size: int,
    tokenizer: ReportTokenizer | None,
    with_images: bool,
    swap: Swap | None = None,
    with_texts: bool = False,
) -> Iterator[Batch]:
    """The rank's canonical evaluation batches of a split, without augmentation. A damaged sample is always an error.

    With `swap`, samples have the image or the report of others.
    """
    size = config.image_size if with_images else None
    batches = evaluation_batches(manifest.split(split).samples, config.evaluation_batch, rank, world_size)
    store = open_store(config, manifest, split)
    source = EvaluationSource(store, reader(store, manifest.image["short_side"], size), batches, swap)
    to_batch = collate(size, Augmentation(), tokenizer, config.text_sections, manifest.views, with_texts)
    return _loader(source, [to_batch], config.workers)
