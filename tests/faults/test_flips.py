"""1,000 flipped bits and 1,000 truncations of shards, through the training stream's own reading: none silent."""

import dataclasses
import random
import re

import pytest

from cxr_dist.data.read import reader
from cxr_dist.data.store import ShardError, ShardStore
from cxr_dist.format.manifest import load_manifest

NAMED = re.compile(r"train-\d{5}\.(tar|index\.npy)\b.*: (copy|run) |train-\d{5}\.tar has \d+ bytes; .*")


def read_all(folder):
    """Every training sample as the loader decodes it; raises ShardError."""
    store = ShardStore(folder, load_manifest(folder), "train")
    read = reader(store, short_side=64, image_size=64)
    try:
        found = []
        for shard, entry in enumerate(store.shards):
            for sample in range(entry.samples):
                one = read(shard, sample)
                found.append((one["__key__"], one["jpg"].tobytes(), one["json"], one["record"].tobytes()))
        return found
    finally:
        store.close()


def flipped(data, chance):
    place = chance.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :]


def cut(data, chance):
    """At any byte, or, every second time, at the end of a block, where a tar may well end."""
    length = chance.randrange(len(data))
    return data[: length - length % 512 if chance.random() < 0.5 else length]


@pytest.fixture
def one_shard(shards):
    """The folder with one training shard, so that a thousand readings take seconds."""
    manifest = load_manifest(shards)
    train = manifest.split("train")
    train = dataclasses.replace(train, samples=train.shards[0].samples, shards=train.shards[:1])
    manifest = dataclasses.replace(manifest, splits=manifest.splits | {"train": train})
    (shards / "manifest.json").write_text(manifest.to_json())
    return shards


@pytest.mark.parametrize(("damage", "harmless"), [(flipped, 0.35), (cut, 0.0)])
def test_no_damage_is_silent(one_shard, damage, harmless):
    expected, chance, messages = read_all(one_shard), random.Random(0), []
    whole = {name: (one_shard / name).read_bytes() for name in ("train-00000.tar", "train-00000.index.npy")}
    for number in range(1000):
        name = list(whole)[number % 10 == 0]  # a tenth of the damage is the index's
        (one_shard / name).write_bytes(damage(whole[name], chance))
        try:
            assert read_all(one_shard) == expected, "silently other data"
        except ShardError as error:
            messages.append(str(error))
        (one_shard / name).write_bytes(whole[name])
    assert all(NAMED.match(message) for message in messages)
    assert len(messages) >= 1000 * (
        1 - harmless
    )  # the rest lies in the tar's closing blocks, which hold nothing
