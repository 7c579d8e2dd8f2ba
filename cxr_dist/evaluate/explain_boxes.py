"""Heat maps of a model over a split, scored against the boxes that the samples hold.

Each rank explains the samples of its canonical evaluation batches one by one, so that a score depends on neither the
batch nor the number of ranks. One gather at the end gives every rank the whole table of scores.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from cxr_dist.config.run import Config
from cxr_dist.data.augment import Augmentation
from cxr_dist.data.batch import Batch
from cxr_dist.data.box_crop import corners_in_input, mask_of
from cxr_dist.data.loader import collate
from cxr_dist.data.place import open_store
from cxr_dist.data.plan import evaluation_batches
from cxr_dist.data.read import SampleDict, decode_sample
from cxr_dist.data.store import SampleError
from cxr_dist.data.text import ReportTokenizer
from cxr_dist.distributed.reduce import gather_rows
from cxr_dist.distributed.watch.progress import advance
from cxr_dist.distributed.world import World
from cxr_dist.evaluate.arrays import Bools, Floats
from cxr_dist.evaluate.box_scores import (
    centred_gaussian,
    is_empty,
    points_at,
    random_tokens,
    share_inside,
)
from cxr_dist.evaluate.class_match import ClassMatch
from cxr_dist.evaluate.explain import attention_map, grad_cam
from cxr_dist.evaluate.passes import inputs_of
from cxr_dist.format.manifest import Manifest
from cxr_dist.format.stored_boxes import StoredBox, boxes_of
from cxr_dist.format.stored_sample import DamagedSample, decode_facts, image_names
from cxr_dist.model.classifier import Classifier

MAPS = ("grad_cam", "attention", "centred_gaussian", "random")
"""What is scored: two explanations of the model, and two maps that know nothing of it."""
MAP_SEED = 0
"""Seed of the random maps."""
_GRID = (7, 7)  # of a random map if the model's tokens form no grid
_FIRST = ("sample", "class", "boxes", "outside", "area")
_SCORES = ("hit", "inside", "empty")
COLUMNS = (*_FIRST, *(f"{name}:{score}" for name in MAPS for score in _SCORES))
"""The columns of a table of scores. A row is a finding: a class that has boxes on a sample."""


class _Finding(NamedTuple):
    """The boxes of one class on one sample, in the network's input."""

    class_index: int
    num_boxes: int
    num_outside: int
    """Boxes of which the crop shows nothing."""
    mask: Bools
    """[images, size, size]."""


@dataclass(frozen=True, kw_only=True)
class Explained:
    """A model in eval mode that reads images, and how samples become its inputs."""

    model: Classifier
    config: Config
    manifest: Manifest
    tokenizer: ReportTokenizer | None
    match: ClassMatch | None
    """How the classes of other shards match those of the model; None for the shards that it was trained on."""

    def box_scores(self, split: str, world: World) -> Floats:
        """The table of scores [findings, COLUMNS] of a split, in the order of samples and classes (all ranks).

        A score of a map that the model does not have is NaN. A finding of which the crop shows no box has an area of 0.
        """
        rows = [row for sample in self._boxed_samples(split, world) for row in self._rows(sample, world.device)]
        own = np.array(rows, dtype=np.float64).reshape(len(rows), len(COLUMNS))
        ones = [1] * world.world_size
        counts = gather_rows(torch.tensor([len(rows)], device=world.device), ones).tolist()
        table = gather_rows(torch.from_numpy(own).to(world.device), counts).cpu().numpy()
        return table[np.lexsort((table[:, 1], table[:, 0]))]

    def _boxed_samples(self, split: str, world: World) -> Iterator[SampleDict]:
        """The rank's samples that have boxes, decoded, with their boxes under "boxes"."""
        size, entry = self.config.data.evaluation_batch, self.manifest.split(split)
        with contextlib.closing(open_store(self.config.data, self.manifest, split)) as store:
            first = np.cumsum([0, *(shard.samples for shard in store.shards)])
            for batch in evaluation_batches(entry.samples, size, world.rank, world.world_size):
                for sample_id in batch:
                    shard = int(np.searchsorted(first, sample_id, side="right")) - 1
                    row = sample_id - int(first[shard])
                    sample = store.read(shard, row)
                    try:
                        boxes = self._boxes(sample)
                        if boxes:
                            decode_sample(sample, self.manifest.image["short_side"], self.config.data.image_size)
                    except DamagedSample as damage:
                        raise SampleError(store.shards[shard].file, row, damage.reason) from None
                    if boxes:
                        yield sample | {"sample_id": sample_id, "boxes": boxes}
                advance()

    def _boxes(self, sample: SampleDict) -> list[StoredBox]:
        """The boxes of a sample, with the classes of the model; without those of classes that are not evaluated."""
        facts, views = decode_facts(sample["json"]), len(image_names(sample))
        boxes = boxes_of(facts, len(self.manifest.classes), views)
        if self.match is None:
            return boxes
        index_of = {source: index for index, sources in enumerate(self.match.sources) for source in sources}
        return [box._replace(class_index=index_of[box.class_index]) for box in boxes if box.class_index in index_of]

    def _rows(self, sample: SampleDict, device: torch.device) -> Iterator[list[float]]:
        """One row of COLUMNS for each class that has boxes on the sample."""
        data, size = self.config.data, self.config.data.image_size
        to_batch = collate(size, Augmentation(), self.tokenizer, data.text_sections, self.manifest.views)
        (batch,) = to_batch(iter([[sample]]))
        for finding in _findings(sample, size):
            fixed = [float(sample["sample_id"]), finding.class_index, finding.num_boxes, finding.num_outside]
            maps = self._maps(batch.to(device), finding, sample["sample_id"])
            scores = [score for name in MAPS for score in _scores(maps.get(name), finding.mask)]
            yield [*fixed, float(finding.mask.mean()), *scores]

    def _maps(self, batch: Batch, finding: _Finding, sample_id: int) -> dict[str, Floats]:
        """The maps [images, h, w] of a batch of one sample, by their names in MAPS."""
        inputs, (images, size, _) = inputs_of(self.model, batch), finding.mask.shape
        heat, attention = grad_cam(self.model, inputs, finding.class_index), attention_map(self.model, inputs)
        maps = {} if heat is None else {"grad_cam": np.stack(np.split(heat, images, axis=1))}
        maps |= {} if attention is None else {"attention": attention}
        grid = next((each.shape[1:] for each in maps.values()), _GRID)
        maps["random"] = random_tokens(images, (grid[0], grid[1]), MAP_SEED, sample_id, finding.class_index)
        return maps | {"centred_gaussian": centred_gaussian(images, size)}


def _findings(sample: SampleDict, size: int) -> Iterator[_Finding]:
    """The boxes of a sample by class, moved as its images are for the network."""
    shapes = [sample[name].shape for name in image_names(sample)]
    matrices = Augmentation().matrices(shapes, size, np.zeros(len(shapes), np.uint64))
    boxes: Sequence[StoredBox] = sample["boxes"]
    for class_index in sorted({box.class_index for box in boxes}):
        of_class = [box for box in boxes if box.class_index == class_index]
        mask, outside = np.zeros((len(shapes), size, size), dtype=np.bool_), 0
        for box in of_class:
            part = mask_of(corners_in_input(box.box, shapes[box.view], matrices[box.view]), size)
            if part is None:
                outside += 1
            else:
                mask[box.view] |= part
        yield _Finding(class_index, len(of_class), outside, mask)


def _scores(heat: Floats | None, mask: Bools) -> list[float]:
    """Hit, share inside and whether the map is empty; NaN without a map."""
    if heat is None:
        return [np.nan] * len(_SCORES)
    return [float(points_at(heat, mask)), share_inside(heat, mask), float(is_empty(heat))]
