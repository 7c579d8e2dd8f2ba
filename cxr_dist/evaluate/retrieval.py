"""Retrieval with a contrastive model: whether the report of an image, or an image of a report, is among the k nearest.

Nearest is by cosine similarity. Reports with the same text cannot be told apart, so each text is one candidate, and
every image that has it is right. Of candidates that are as similar as the right one, all count as nearer, so that a
model that embeds everything alike has a recall of 0.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cxr_dist.config.run import Config
from cxr_dist.data.loader import evaluation_loader
from cxr_dist.data.report_pairs import report_id
from cxr_dist.data.text import ReportTokenizer
from cxr_dist.distributed.world import World
from cxr_dist.evaluate.arrays import Floats
from cxr_dist.evaluate.passes import inputs_of
from cxr_dist.evaluate.predict import gather_samples, with_progress
from cxr_dist.format.manifest import Manifest
from cxr_dist.model.contrastive import Contrastive

CUTS = (1, 5, 10)
"""The numbers of nearest candidates for which recall is given."""
DIRECTIONS = ("image_to_report", "report_to_image")
_QUERIES = 1024  # whose similarities are in memory at a time
_HALF = 2**32


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """A split's samples in the joint space, [N] rows in the order of the split."""

    images: Floats
    """[N, D], each of length 1; of a study with several images the embedding of their mean features."""
    reports: Floats
    """[N, D], each of length 1, of the whole text of the sections that the model reads."""
    report_ids: NDArray[np.int64]
    """[N], equal for equal texts; 0 for a sample without a report."""


@torch.no_grad()
def embed_split(
    model: Contrastive,
    config: Config,
    manifest: Manifest,
    split: str,
    *,
    tokenizer: ReportTokenizer | None,
    world: World,
) -> Embedded:
    """Embed a whole split in canonical batches (all ranks); the result is the same on every rank."""
    was_training = model.training
    model.eval()
    batches = evaluation_loader(
        config.data,
        manifest,
        split,
        rank=world.rank,
        world_size=world.world_size,
        tokenizer=tokenizer,
        with_images=True,
        with_texts=True,
    )
    parts = []
    for batch in with_progress(batches):
        ids = np.array([report_id(text) for text in batch.texts], np.int64)
        with config.autocast(world.device.type):
            rows = model(*inputs_of(model, batch.to(world.device)))[:, :-1].double().cpu().numpy()
        # float64 holds only integers up to 2^53 exactly, so an id is gathered in two halves.
        parts.append(np.column_stack([batch.sample_ids.numpy(), ids // _HALF, ids % _HALF, rows]))
    model.train(was_training)
    rows = gather_samples(parts, manifest.split(split).samples, config.data.evaluation_batch, world)
    images, reports = np.split(rows[:, 3:], 2, axis=1)
    ids = rows[:, 1].astype(np.int64) * _HALF + rows[:, 2].astype(np.int64)
    return Embedded(images=images, reports=reports, report_ids=ids)


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """The result of every query. Each sample with a report is one query in each direction."""

    rows: NDArray[np.int64]
    """[n], the samples with a report."""
    better: dict[str, NDArray[np.int64]]
    """Direction -> [n], the number of wrong candidates that are at least as near as the nearest right one."""
    chance: dict[str, dict[int, float]]
    """Direction -> k -> recall of candidates in a random order."""
    candidates: dict[str, int]
    """Direction -> number of candidates: different reports, or images."""

    def recall(self, direction: str, k: int) -> float:
        """The share of the queries whose right candidate is among the k nearest; NaN without a query."""
        return float((self.better[direction] < k).mean()) if len(self.rows) else float("nan")

    @property
    def mean_recall(self) -> float:
        """The mean of the recalls of both directions at 1, 5 and 10."""
        return float(np.mean([self.recall(direction, k) for direction in DIRECTIONS for k in CUTS]))

    @property
    def values(self) -> dict[str, float]:
        """Recalls by path, such as image_to_report/recall_at_5, and mean_recall; empty without a query."""
        if not len(self.rows):
            return {}
        recalls = {f"{d}/recall_at_{k}": self.recall(d, k) for d in DIRECTIONS for k in CUTS}
        return {"mean_recall": self.mean_recall} | recalls


def retrieve(embedded: Embedded) -> Retrieval:
    """Query the images of all samples with a report by their reports, and the other way round."""
    rows = np.flatnonzero(embedded.report_ids)
    ids, images = embedded.report_ids[rows], embedded.images[rows]
    texts, first, number = np.unique(ids, return_index=True, return_inverse=True)
    reports = embedded.reports[rows][first]
    same = np.bincount(number, minlength=len(texts))[number]  # images that have the sample's report
    total = len(rows)
    return Retrieval(
        rows=rows,
        better={
            "image_to_report": _better(images, reports, ids, texts),
            "report_to_image": _better(reports[number], images, ids, ids),
        },
        chance={
            "image_to_report": {k: min(k / max(len(texts), 1), 1.0) for k in CUTS},
            "report_to_image": {k: _chance(total, same, k) for k in CUTS},
        },
        candidates={"image_to_report": len(texts), "report_to_image": total},
    )


def _better(queries: Floats, candidates: Floats, of_queries: Any, of_candidates: Any) -> NDArray[np.int64]:
    """For each query the number of candidates with another id that are as near as its nearest with the same id."""
    found = np.empty(len(queries), np.int64)
    for start in range(0, len(queries), _QUERIES):
        block = slice(start, start + _QUERIES)
        near = queries[block] @ candidates.T
        right = of_queries[block, None] == of_candidates
        best = np.where(right, near, -np.inf).max(axis=1)
        found[block] = ((near >= best[:, None]) & ~right).sum(axis=1)
    return found


def _chance(total: int, same: NDArray[np.int64], k: int) -> float:
    """The mean probability that k of `total` images, drawn without replacement, have one of the `same` right ones."""
    missed = np.ones(len(same))
    for drawn in range(min(k, total)):
        missed *= np.clip((total - same - drawn) / (total - drawn), 0, 1)
    return float((1 - missed).mean()) if len(same) else float("nan")
