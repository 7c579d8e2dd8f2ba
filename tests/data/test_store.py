"""Damage of a shard is detected when the damaged part is read, and the error does not contain its content."""

import dataclasses
import json
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from cxr_dist.data.store import ShardError, ShardStore
from cxr_dist.errors import UserError
from cxr_dist.format.manifest import load_manifest


@pytest.fixture
def shards(tiny_shards, tmp_path):
    return shutil.copytree(tiny_shards, tmp_path / "shards")


def read_all(folder):
    store = ShardStore(folder, load_manifest(folder), "train")
    return [store.read(s, i) for s, entry in enumerate(store.shards) for i in range(entry.samples)]


def reading_error(folder, expected):
    """The message of the error that reading raises, or "" if all samples are as expected."""
    try:
        assert contents(read_all(folder)) == expected, "other data was read without an error"
    except ShardError as error:
        return str(error)
    return ""


def contents(samples):
    return [(s["__key__"], s["jpg"], s["json"]) for s in samples]


def test_every_flipped_bit_of_a_sample_is_detected(shards):
    whole, victim = contents(read_all(shards)), shards / "train-00001.tar"
    data, chance, noticed = victim.read_bytes(), random.Random(0), 0
    for _ in range(200):
        place = chance.randrange(len(data))
        damaged = bytearray(data)
        damaged[place] ^= 1 << chance.randrange(8)
        victim.write_bytes(damaged)
        message = reading_error(shards, whole)
        assert message == "" or re.fullmatch(r"train-00001\.tar: sample \d+ does not .* \(crc32\): .*", message)
        noticed += message != ""
    assert noticed > 100  # the other bits are in the empty blocks at the end of the tar


def test_the_error_for_a_truncated_shard_has_both_sizes(shards):
    victim = shards / "train-00000.tar"
    size = victim.stat().st_size
    victim.write_bytes(victim.read_bytes()[: size // 2])
    with pytest.raises(ShardError, match=rf"train-00000.tar has {size // 2} bytes; the manifest says {size}"):
        read_all(shards)


def test_a_missing_shard_and_a_changed_index_are_named(shards):
    index = shards / "train-00000.index.npy"
    data = bytearray(index.read_bytes())
    data[-1] ^= 1
    index.write_bytes(data)
    with pytest.raises(ShardError, match=r"train-00000.index.npy is missing or not the one that was written"):
        read_all(shards)
    shutil.copyfile(shards / "train-00001.tar", shards / "elsewhere.tar")
    (shards / "train-00001.tar").unlink()
    store = ShardStore(shards, load_manifest(shards), "train")
    with pytest.raises(ShardError, match=r"train-00001\.tar cannot be opened \(No such file or directory\): copy it"):
        store.read(1, 0)


def test_a_manifest_of_another_version_or_kind_is_refused(shards):
    path = shards / "manifest.json"
    plain = json.loads(path.read_text())
    path.write_text(json.dumps(plain | {"format_version": 99}))
    with pytest.raises(UserError, match="has format version 99; this release reads version 2: shard the data again"):
        load_manifest(shards)
    path.write_text("{}")
    with pytest.raises(UserError, match="is not a manifest of cxr_dist shards"):
        load_manifest(shards)
    path.unlink()
    with pytest.raises(UserError, match=r"no manifest\.json in .*: expected a folder that `cxr-dist shard` finished"):
        load_manifest(shards)


def test_any_changed_bit_of_the_manifest_is_detected(shards):
    path = shards / "manifest.json"
    whole = path.read_bytes()
    for bit in np.random.default_rng(0).choice(8 * len(whole), 300, replace=False).tolist():
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"^manifest\.json "):
            load_manifest(shards)
    path.write_bytes(whole[:-1])
    with pytest.raises(UserError, match="does not have the bytes that were written"):
        load_manifest(shards)


def test_an_empty_split_is_named(shards):
    path = shards / "manifest.json"
    manifest = load_manifest(shards)
    nothing = dataclasses.replace(manifest.split("val"), samples=0, shards=())
    path.write_text(dataclasses.replace(manifest, splits=manifest.splits | {"val": nothing}).to_json())
    with pytest.raises(UserError, match="split 'val' is empty or missing; the shards have: train, test"):
        load_manifest(shards).split("val")


def open_files(folder):
    return [link for link in Path("/proc/self/fd").iterdir() if str(folder) in str(link.resolve())]


def test_a_closed_store_leaves_no_file_open_and_can_be_read_again(shards):
    store = ShardStore(shards, load_manifest(shards), "train")
    first = store.read(0, 0)
    store.read(1, 0)
    assert len(open_files(shards)) == 2
    store.close()
    assert open_files(shards) == []
    with (shards / "manifest.json").open() as other:  # which takes the number of a descriptor that was closed
        store.close()
        assert other.read(1) == "{"
    assert contents([store.read(0, 0)]) == contents([first])
    store.close()
    assert open_files(shards) == []


def test_a_store_that_is_garbage_collected_leaves_no_file_open(shards):
    store = ShardStore(shards, load_manifest(shards), "train")
    store.read(0, 0)
    store.read(1, 0)
    assert len(open_files(shards)) == 2  # the tars; an index is closed after it is read
    del store
    assert open_files(shards) == []
