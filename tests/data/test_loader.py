"""The streams hold the same samples at any number of ranks and workers and from any step on."""

import dataclasses
import json

import numpy as np
import pytest
import webdataset
from lane_batches import lane_batches

from cxr_dist.data.loader import evaluation_loader, training_plan
from cxr_dist.data.store import ShardStore
from cxr_dist.format.manifest import load_manifest


def ledger(config, manifest, steps, first_step=0, world_size=1, workers=0):
    """The content of each micro-batch by (step, lane), over all ranks."""
    data = dataclasses.replace(config.data, workers=workers)
    stream = lane_batches(data, manifest, config.seed, steps=steps, first_step=first_step, world_size=world_size)
    return {
        place: (batch.sample_ids.tolist(), batch.labels.tolist(), batch.images.numpy().tobytes())
        for place, batch in stream
    }


@pytest.fixture(scope="module")
def manifest(tiny_shards):
    return load_manifest(tiny_shards)


@pytest.fixture
def config(tiny_config):
    data = dataclasses.replace(tiny_config.data, global_batch=24, micro_batch=2, image_size=32)
    return dataclasses.replace(tiny_config, data=data)


@pytest.mark.parametrize(("world_size", "workers"), [(1, 2), (2, 0), (3, 1), (4, 0), (6, 3), (12, 0)])
def test_the_stream_does_not_depend_on_ranks_and_workers(config, manifest, world_size, workers):
    steps = training_plan(config.data, manifest, config.seed).steps_per_epoch + 2  # beyond the end of an epoch
    single_rank = ledger(config, manifest, steps)
    assert ledger(config, manifest, steps, world_size=world_size, workers=workers) == single_rank


def test_a_resume_at_any_step_continues_the_same_stream(config, manifest):
    whole = ledger(config, manifest, 7)
    for first in range(7):
        part = ledger(config, manifest, 7 - first, first_step=first, world_size=2)
        assert part == {key: value for key, value in whole.items() if key[0] >= first}


def test_a_stored_sample_equals_what_webdataset_reads(tiny_shards, manifest):
    store = ShardStore(tiny_shards, manifest, "train")
    urls = [str(tiny_shards / shard.file) for shard in store.shards]
    theirs = {s["__key__"]: s for s in webdataset.WebDataset(urls, shardshuffle=False)}
    assert len(theirs) == manifest.split("train").samples
    for shard, entry in enumerate(store.shards):
        for i in range(entry.samples):
            ours = store.read(shard, i)
            other = theirs[ours["__key__"]]
            assert (ours["jpg"], ours["json"]) == (other["jpg"], other["json"])
            assert json.loads(ours["json"])["label"] == int(ours["record"]["label"][0])


@pytest.mark.parametrize(("world_size", "workers", "batch"), [(1, 0, 5), (2, 1, 7), (3, 2, 4), (4, 0, 100)])
def test_evaluation_reads_each_sample_once_in_canonical_batches(config, manifest, world_size, workers, batch):
    data = dataclasses.replace(config.data, workers=workers, evaluation_batch=batch)
    seen = []
    for rank in range(world_size):
        loader = evaluation_loader(
            data, manifest, "val", rank=rank, world_size=world_size, tokenizer=None, with_images=False
        )
        parts = [b.sample_ids.tolist() for b in loader]
        assert all(part[0] % batch == 0 and part == list(range(part[0], part[0] + len(part))) for part in parts)
        seen += [i for part in parts for i in part]
    assert sorted(seen) == list(range(manifest.split("val").samples))


def test_weighted_sampling_draws_the_classes_equally_often(config, manifest):
    data = dataclasses.replace(config.data, sampling="weighted")
    weighted = dataclasses.replace(config, data=data)
    plan = training_plan(data, manifest, config.seed)
    drawn = ledger(weighted, manifest, plan.steps_per_epoch)
    labels = [label[0] for _, batch_labels, _ in drawn.values() for label in batch_labels]
    np.testing.assert_allclose(np.bincount(labels), len(labels) / 5, atol=1.0 + len(labels) / 10)
