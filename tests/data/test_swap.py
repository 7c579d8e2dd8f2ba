"""After a swap, a sample has the image or the report of its donor, and everything else of its own."""

import dataclasses

import numpy as np
import pytest
import torch

from cxr_dist.data.batch import Batch
from cxr_dist.data.loader import evaluation_loader
from cxr_dist.data.swap import Swap
from cxr_dist.format.manifest import load_manifest


def read(config, manifest, swap, rank=0, world_size=1) -> list[Batch]:
    def tokenizer(texts):
        codes = torch.tensor([[len(text), sum(map(ord, text))] for text in texts])
        return codes, torch.ones_like(codes)

    options = {"rank": rank, "world_size": world_size, "tokenizer": tokenizer, "with_images": True}
    return list(evaluation_loader(config.data, manifest, "train", **options, swap=swap))


def images_of(batches: list[Batch]) -> list[np.ndarray]:
    """The images of each sample."""
    found = []
    for batch in batches:
        rows = torch.arange(len(batch))[:, None] if batch.view_rows is None else batch.view_rows
        found += [batch.images[own[own >= 0]].numpy() for own in rows]
    return found


def column(batches: list[Batch], name: str) -> np.ndarray:
    return np.concatenate([getattr(batch, name).numpy() for batch in batches])


@pytest.mark.parametrize("shards", ["tiny_shards", "study_shards"])
@pytest.mark.parametrize("modality", ["image", "report"])
def test_a_sample_has_what_was_swapped_of_its_donor_and_the_rest_of_its_own(request, tiny_config, shards, modality):
    folder = request.getfixturevalue(shards)
    data = dataclasses.replace(tiny_config.data, shards=str(folder), evaluation_batch=7, workers=1)
    config, manifest = dataclasses.replace(tiny_config, data=data), load_manifest(folder)
    donors = np.random.default_rng(0).integers(0, manifest.split("train").samples, manifest.split("train").samples)
    own, after = read(config, manifest, None), read(config, manifest, Swap(modality=modality, donors=donors))
    for name in ("labels", "groups", "sample_ids"):
        assert np.array_equal(column(own, name), column(after, name)), name
    same = np.arange(len(donors))
    of_images, of_reports = (donors, same) if modality == "image" else (same, donors)
    assert np.array_equal(column(after, "tokens"), column(own, "tokens")[of_reports])
    before = images_of(own)
    for found, donor in zip(images_of(after), of_images, strict=True):
        assert np.array_equal(found, before[donor])


def test_ranks_read_the_same_swapped_batches(tiny_config, tiny_shards):
    data = dataclasses.replace(tiny_config.data, evaluation_batch=5)
    config, manifest = dataclasses.replace(tiny_config, data=data), load_manifest(tiny_shards)
    swap = Swap(modality="report", donors=np.arange(manifest.split("train").samples)[::-1].copy())
    alone = read(config, manifest, swap)
    parts = [read(config, manifest, swap, rank, 3) for rank in range(3)]
    together = [parts[i % 3][i // 3] for i in range(len(alone))]
    assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(alone, together, strict=True))
