"""A folder of folds holds each sample once, and each test fold makes train, val and test of it."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
from table_source import contents, make_source, source_names, table_recipe

from cxr_dist.config.data import DataConfig
from cxr_dist.data.place import open_manifest, open_store
from cxr_dist.errors import UserError
from cxr_dist.evaluate.leakage import patients_in_training
from cxr_dist.format import manifest as manifests
from cxr_dist.format.folds import of_fold, parts_of_fold
from cxr_dist.format.manifest import Manifest, load_manifest
from cxr_dist.format.shard_list import JoinedShards, column
from cxr_dist.shard.recipe import Labels, ShardSize, Split
from cxr_dist.shard.verify import verify
from cxr_dist.shard.write import write_shards

FOLDS = 4
RECIPE = table_recipe(split=Split(folds=FOLDS, seed=7))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_source(tmp_path_factory.mktemp("source") / "films")


@pytest.fixture(scope="module")
def shards(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("folds") / "shards"
    write_shards(RECIPE, source, folder, workers=0)
    return folder


def keys(shards, fold, split):
    """The keys of a split of a test fold, in order, as training and evaluation read them."""
    data = DataConfig(shards=str(shards), fold=fold)
    store = open_store(data, open_manifest(data), split)
    found = [key.decode() for shard in range(len(store.shards)) for key in store.index(shard)["key"].tolist()]
    assert [store.read(0, 0)["__key__"]] == found[:1]
    store.close()
    return found


def test_each_sample_is_stored_once_and_tested_once(shards):
    assert verify(shards) == []
    everything = Counter(source_names(shards).keys())
    assert Counter(key for fold in range(FOLDS) for key in keys(shards, fold, "test")) == everything
    for fold in range(FOLDS):
        parts = {split: keys(shards, fold, split) for split in ("train", "val", "test")}
        assert Counter(key for part in parts.values() for key in part) == everything
        assert parts["val"] == keys(shards, (fold + 1) % FOLDS, "test")
        manifest = open_manifest(DataConfig(shards=str(shards), fold=fold))
        assert {name: split.samples for name, split in manifest.splits.items()} == {
            name: len(part) for name, part in parts.items()
        }
        assert sum(split.patients for split in manifest.splits.values()) == 40
        for split in manifest.splits.values():
            assert sum(counts["positive"] for counts in split.label_counts.values()) == split.samples
        data = DataConfig(shards=str(shards), fold=fold)
        assert patients_in_training(data, manifest, "test") == patients_in_training(data, manifest, "val") == 0


def test_the_rule_of_the_splits():
    assert parts_of_fold(3, 5) == {"train": ("fold0", "fold1", "fold2"), "val": ("fold4",), "test": ("fold3",)}
    assert parts_of_fold(4, 5) == {"train": ("fold1", "fold2", "fold3"), "val": ("fold0",), "test": ("fold4",)}


@pytest.mark.parametrize("fold", [None, FOLDS])
def test_a_run_must_name_one_of_the_folds(shards, fold):
    with pytest.raises(UserError, match=r"the shards have 4 folds, .*: add --data.fold with one of 0, 1, 2, 3$"):
        open_manifest(DataConfig(shards=str(shards), fold=fold))
    with pytest.raises(UserError, match=r"data\.fold is -1; expected 0 or more"):
        DataConfig(fold=-1)


def test_a_fold_of_shards_without_folds_is_refused(tiny_shards):
    with pytest.raises(UserError, match=r"data\.fold is 1, but the shards have no folds: leave out --data\.fold, or"):
        open_manifest(DataConfig(shards=str(tiny_shards), fold=1))
    manifest = load_manifest(tiny_shards)
    assert open_manifest(DataConfig(shards=str(tiny_shards))) == manifest
    assert '"fold' not in (tiny_shards / "manifest.json").read_text()  # as before folds existed


def test_the_manifest_of_a_fold_is_kept_by_its_copy_in_the_run_folder(shards):
    chosen = of_fold(load_manifest(shards), 2)
    assert (chosen.fold, chosen.folds, chosen.split_rule) == (2, 4, "patient, 4 folds, test fold 2")
    assert load_manifest(shards).split_rule == "patient, 4 folds"
    assert Manifest.from_json(chosen.to_json(), shards / "manifest.json") == chosen


def test_the_same_command_continues_a_folder_of_folds_and_writes_the_same_bytes(source, shards, tmp_path, monkeypatch):
    def stop(*arguments, **named):
        raise KeyboardInterrupt

    out = tmp_path / "shards"
    with monkeypatch.context() as patch:
        patch.setattr("cxr_dist.shard.write._put_together", stop)
        with pytest.raises(KeyboardInterrupt):
            write_shards(RECIPE, source, out, workers=0)
    (out / "fold2-00000.tar").unlink()
    write_shards(RECIPE, source, out, workers=0)
    assert contents(out) == contents(shards)
    other = dataclasses.replace(RECIPE, split=Split(folds=5, seed=7))
    with pytest.raises(UserError, match=r"holds shards of another recipe \(it differs in: split\)"):
        write_shards(other, source, out, workers=0)


def test_a_class_that_some_test_fold_leaves_without_training_samples_is_refused(source, tmp_path):
    """With three folds, a run trains on one; a class of two patients is missing from it at least once."""
    rows = (source / "films.csv").read_text().splitlines()
    rows[1:5] = [row.replace(",sick,", ",rare,").replace(",well,", ",rare,") for row in rows[1:5]]
    (tmp_path / "films.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "images").symlink_to(source / "images")
    labels = Labels(classes={"Sick": ("sick",), "Well": ("well",), "Rare": ("rare",)})
    recipe = table_recipe(split=Split(folds=3), labels=labels)
    with pytest.raises(UserError, match=r"class 'Rare' is missing from train of test fold \d \(4 images in all\)"):
        write_shards(recipe, tmp_path, tmp_path / "shards", workers=0)


def test_joined_tables_are_read_like_one_list(source, shards, tmp_path, monkeypatch):
    recipe = dataclasses.replace(RECIPE, shard=ShardSize(samples=10))
    write_shards(recipe, source, tmp_path / "lists", workers=0)
    monkeypatch.setattr(manifests, "MOST_LISTED", 1)  # a fold has two shards or more, so each gets a table
    write_shards(recipe, source, tmp_path / "tables", workers=0)
    assert verify(tmp_path / "tables") == []
    joined, entries = (
        open_manifest(DataConfig(shards=str(tmp_path / name), fold=1)).split("train").shards
        for name in ("tables", "lists")
    )
    assert isinstance(joined, JoinedShards)
    assert joined[:] == tuple(joined) == entries
    assert (joined[-1], joined[1:-1:2], len(joined)) == (entries[-1], entries[1:-1:2], len(entries))
    with pytest.raises(IndexError):
        joined[len(entries)]
    for name in ("samples", "bytes", "group_counts"):
        np.testing.assert_array_equal(column(joined, name), column(entries, name))
    assert keys(tmp_path / "tables", 1, "train") == keys(tmp_path / "lists", 1, "train")
