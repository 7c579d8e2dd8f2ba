"""Samples of several images are batched completely and in order, and each image has random numbers of its own."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lane_batches import lane_batches

from cxr_dist.config.run import Config
from cxr_dist.data.loader import evaluation_loader
from cxr_dist.data.own_stages import own_stages
from cxr_dist.data.place import open_store
from cxr_dist.data.read import reader
from cxr_dist.data.views import image_keys, partner_images, row_table
from cxr_dist.errors import UserError
from cxr_dist.format.manifest import Manifest, load_manifest

COUNTS = st.integers(1, 4).flatmap(
    lambda views: st.tuples(st.lists(st.integers(1, views), min_size=1, max_size=9), st.just(views))
)


@given(COUNTS)
def test_every_image_has_one_row_in_the_order_of_the_samples(case):
    counts, views = case
    table = row_table(counts, views)
    assert table.shape == (len(counts), views)
    assert (table != -1).sum(axis=1).tolist() == counts
    assert table[table != -1].tolist() == list(range(sum(counts)))


@given(COUNTS, st.integers(0, 2**64 - 1))
def test_the_key_of_an_image_depends_on_its_samples_key_and_its_place(case, first):
    counts, views = case
    keys = np.arange(len(counts), dtype=np.uint64) + np.uint64(first)
    table = row_table(counts, views)
    batch_keys = image_keys(keys, table)
    assert len(np.unique(batch_keys)) == sum(counts)
    for sample, rows in enumerate(table):
        alone = image_keys(keys[sample : sample + 1], row_table([counts[sample]], views))
        assert batch_keys[rows[rows != -1]].tolist() == alone.tolist()
        assert alone[0] == keys[sample]
    assert image_keys(keys, None) is keys


@given(COUNTS, st.randoms())
def test_the_partner_of_an_image_is_an_image_of_its_samples_partner(case, random):
    counts, views = case
    order = np.array(random.sample(range(len(counts)), len(counts)))
    table = row_table(counts, views)
    partners = partner_images(order, table)
    assert len(partners) == sum(counts)
    for sample, rows in enumerate(table):
        for view, row in enumerate(rows[rows != -1]):
            theirs = table[order[sample]]
            assert partners[row] == (theirs[view] if theirs[view] != -1 else theirs[0])
    single = row_table([1] * len(counts), views)
    assert partner_images(order, single).tolist() == order.tolist() == partner_images(order, None).tolist()


@pytest.fixture(scope="module")
def manifest(study_shards) -> Manifest:
    return load_manifest(study_shards)


@pytest.fixture
def config(study_config: Config) -> Config:
    data = dataclasses.replace(study_config.data, global_batch=12, micro_batch=3, image_size=32)
    return dataclasses.replace(study_config, data=data)


def ledger(config: Config, manifest: Manifest, steps: int, world_size: int = 1, workers: int = 0) -> dict:
    """The content of each micro-batch by (step, lane), over all ranks."""
    data = dataclasses.replace(config.data, workers=workers)
    stream = lane_batches(data, manifest, config.seed, steps=steps, world_size=world_size)
    return {
        place: (batch.images.numpy().tobytes(), batch.view_rows.tolist(), batch.labels.tolist())
        for place, batch in stream
    }


def test_the_stream_does_not_depend_on_ranks_and_workers(config, manifest):
    single_rank = ledger(config, manifest, 4)
    assert len({np.max(rows) for _, rows, _ in single_rank.values()}) > 1  # the number of images varies
    assert ledger(config, manifest, 4, world_size=2, workers=1) == single_rank


def test_evaluation_has_each_studys_images_in_their_order(config, manifest):
    batches = evaluation_loader(config.data, manifest, "val", rank=0, world_size=1, tokenizer=None, with_images=True)
    store = open_store(config.data, manifest, "val")
    read, num_images = reader(store, 64, 64), 0
    places = [(shard, i) for shard, entry in enumerate(store.shards) for i in range(entry.samples)]
    for batch in batches:
        for sample_id, rows in zip(batch.sample_ids.tolist(), batch.view_rows.tolist(), strict=True):
            sample = read(*places[sample_id])
            names = [name for name in ("jpg", "1.jpg") if name in sample]
            assert len(sample["json"]["views"]) == len(names)
            for name, row in zip(names, rows, strict=False):
                # The image at half size must be of this view and study, and not of another one.
                small = sample[name].reshape(32, 2, 32, 2).mean((1, 3))
                assert np.corrcoef(small.ravel(), batch.images[row, 0].numpy().ravel())[0, 1] > 0.99
            assert rows[len(names) :] == [-1] * (2 - len(names))
            num_images += len(names)
    assert num_images > len(places)


def test_a_users_stage_gets_every_image_of_a_study_and_must_return_all(tmp_path):
    (tmp_path / "stages.py").write_text(
        "def dark(sample, random):\n"
        "    return {k: v * 0 if k.endswith('jpg') else v for k, v in sample.items()}\n"
        "def lose(sample, random):\n"
        "    return {'jpg': sample['jpg'], 'json': sample['json']}\n"
    )
    image = np.full((4, 4), 9, np.uint8)
    study = {"__key__": "k", "jpg": image, "1.jpg": image, "json": {"text": {}}}
    study["augmentation_key"] = np.uint64(1)
    dark, lose = own_stages([f"{tmp_path}/stages.py:{name}" for name in ("dark", "lose")])
    ((darkened,),) = dark(iter([[study]]))
    assert not darkened["jpg"].any()
    assert not darkened["1.jpg"].any()
    with pytest.raises(UserError, match="lose' did not return a sample"):
        list(lose(iter([[study]])))


def test_the_images_of_a_study_are_augmented_independently(config, manifest):
    """An image that occurs twice is warped in two ways, and a study of one image like that image alone."""
    from cxr_dist.data.augment import Augmentation
    from cxr_dist.data.loader import collate

    image = np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8)
    record = {"label": [0], "group": 0}
    sample = {"jpg": image, "json": {"text": {}}, "record": record, "sample_id": 0, "augmentation_key": 5}
    stage = collate(32, Augmentation(rotation_degrees=20), None, (), 2)
    both, one = stage(iter([[sample | {"1.jpg": image}], [sample]]))
    (alone,) = collate(32, Augmentation(rotation_degrees=20), None, ())(iter([[sample]]))
    assert not np.array_equal(both.images[0], both.images[1])
    assert np.array_equal(both.images[0], alone.images[0])
    assert np.array_equal(one.images, alone.images)
    assert (both.view_rows.tolist(), one.view_rows.tolist(), alone.view_rows) == ([[0, 1]], [[0, -1]], None)
