"""Shards for one's own code: the frame has the samples of the split, and a pass of the loader is one epoch of them."""

import json

import numpy as np
import pytest
import torch
import webdataset
from made_shards import write_imbalanced_shards

import cxr_dist
from cxr_dist.errors import UserError


@pytest.fixture(scope="module")
def shards(tiny_shards):
    return cxr_dist.open_shards(tiny_shards)


def stored(folder, split):
    """The samples of a split as webdataset reads them, key -> decoded JSON."""
    urls = sorted(map(str, folder.glob(f"{split}-*.tar")))
    return {sample["__key__"]: json.loads(sample["json"]) for sample in webdataset.WebDataset(urls, shardshuffle=False)}


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_the_frame_has_every_sample_with_its_label_patient_and_texts(shards, tiny_shards, split):
    table, samples = shards.frame(split, texts=True), stored(tiny_shards, split)
    assert set(table.index) == set(samples)
    assert len(table) == shards.manifest.split(split).samples
    for key, sample in samples.items():
        row = table.loc[key]
        assert (row["label"], row["patient"], row["study"]) == (
            shards.classes[sample["label"]],
            sample["patient"],
            sample["study"],
        )
        for section in shards.manifest.text_sections:
            assert row[f"text:{section}"] == sample["text"].get(section, "")
    assert list(shards.frame(split).columns) == ["patient", "study", "label"]


def test_a_multilabel_frame_has_a_column_for_each_class_and_unknown_labels_are_missing(tmp_path):
    shards = cxr_dist.open_shards(write_imbalanced_shards(tmp_path, "multilabel", 80))
    table = shards.frame("train")
    for name in shards.classes:
        counts = shards.manifest.split("train").label_counts[name]
        column = table[f"label:{name}"]
        assert (int((column == 1).sum()), int((column == 0).sum())) == (counts["positive"], counts["negative"])
        assert int(column.isna().sum()) == counts["unknown"]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_an_epoch_shows_each_sample_at_most_once_and_leaves_out_what_fills_no_batch(shards, world_size):
    loaders = [shards.loader("train", batch_size=5, rank=r, world_size=world_size) for r in range(world_size)]
    samples = shards.manifest.split("train").samples
    epochs = []
    for _ in range(2):
        passes = [list(loader) for loader in loaders]
        assert [len(batches) for batches in passes] == [len(loader) for loader in loaders]
        keys = [key for batches in passes for batch in batches for key in batch.keys]
        assert len(keys) == len(set(keys)) == samples // (5 * world_size) * 5 * world_size
        epochs.append(keys)
    assert epochs[0] != epochs[1]
    loaders[0].set_epoch(0)
    assert [key for batch in loaders[0] for key in batch.keys] == epochs[0][: len(loaders[0]) * 5]


def test_an_evaluation_pass_shows_each_sample_once_in_order_at_any_number_of_ranks(shards):
    alone = [key for batch in shards.loader("test", batch_size=4) for key in batch.keys]
    assert alone == list(shards.frame("test").index)
    passes = [list(shards.loader("test", batch_size=4, rank=r, world_size=3)) for r in range(3)]
    assert sorted(key for batches in passes for batch in batches for key in batch.keys) == sorted(alone)
    assert sum(len(shards.loader("test", batch_size=4, rank=r, world_size=3)) for r in range(3)) == -(-len(alone) // 4)


def test_a_batch_holds_the_labels_and_reports_of_its_keys(shards):
    table = shards.frame("train", texts=True)
    batch = next(iter(shards.loader("train", batch_size=6, sections=("findings",), image_size=48)))
    assert (batch.images.shape, batch.images.dtype) == ((6, 1, 48, 48), torch.uint8)
    assert [shards.classes[int(label)] for label in batch.labels[:, 0]] == list(table.loc[list(batch.keys), "label"])
    assert list(batch.texts) == list(table.loc[list(batch.keys), "text:findings"])


def test_without_augmentation_a_shuffled_image_is_the_one_in_order(shards):
    ordered = {
        k: image for b in shards.loader("train", shuffle=False) for k, image in zip(b.keys, b.images, strict=True)
    }
    for batch in shards.loader("train", batch_size=8, augment=False):
        for key, image in zip(batch.keys, batch.images, strict=True):
            assert torch.equal(image, ordered[key])


def test_a_worker_reads_the_same_batches(shards):
    read = [[(b.keys, b.images.numpy()) for b in shards.loader("train", batch_size=16, workers=n)] for n in (0, 1)]
    for (keys, images), (others, other_images) in zip(*read, strict=True):
        assert keys == others
        assert np.array_equal(images, other_images)


@pytest.mark.parametrize(
    ("split", "settings", "message"),
    [
        ("tset", {}, r"unknown split 'tset' \(did you mean 'test'\?\); expected one of: train, val, test"),
        ("test", {"shuffle": True}, "only train can be shuffled, not test"),
        ("test", {"augment": True}, "only shuffled samples are augmented"),
        ("train", {"batch_size": 0}, "batch_size is 0; expected 1 or more"),
        ("train", {"batch_size": 1000}, "fewer than"),
        ("train", {"rank": 2, "world_size": 2}, "rank 2 is not in 0 to world size 2 - 1"),
        ("train", {"sections": ("finding",)}, r"unknown report section 'finding' \(did you mean 'findings'\?\)"),
        ("train", {"workers": -1}, r"data\.workers is -1"),
    ],
)
def test_a_loader_that_does_not_fit_the_shards_is_refused(shards, split, settings, message):
    with pytest.raises(UserError, match=message):
        shards.loader(split, **settings)


def test_a_folder_without_shards_is_refused_and_shards_are_shown_in_a_few_lines(shards, tmp_path):
    with pytest.raises(UserError, match=r"no manifest\.json in"):
        cxr_dist.open_shards(tmp_path)
    assert "5 classes: Normal, Cardiomegaly" in repr(shards)
    assert len(repr(shards).splitlines()) == 3
