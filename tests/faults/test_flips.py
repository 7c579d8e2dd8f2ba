"""The training stream notices all of 1,000 flipped bits and 1,000 truncations of shards."""

import dataclasses
import random
import re

import pytest

from cxr_dist.data.read import reader
from cxr_dist.data.store import ShardError, ShardStore
from cxr_dist.format.manifest import load_manifest

NAMED = re.compile(r"train-\d{5}\.(tar|index\.npy)\b.*: (copy|run) |train-\d{5}\.tar has \d+ bytes; .*")


def read_all(folder):
    """Return every training sample as the loader decodes it; raises ShardError."""
    store = ShardStore(folder, load_manifest(folder), "train")
    read = reader(store, short_side=64, image_size=64)
    try:
        samples = []
        for shard, entry in enumerate(store.shards):
            for sample in range(entry.samples):
                one = read(shard, sample)
                samples.append((one["__key__"], one["jpg"].tobytes(), one["json"], one["record"].tobytes()))
        return samples
    finally:
        store.close()


def flipped(data, chance):
    place = chance.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :]


def truncated(data, chance):
    """Truncate at any byte or, in half of the cases, at the end of a tar block."""
    length = chance.randrange(len(data))
    return data[: length - length % 512 if chance.random() < 0.5 else length]


@pytest.fixture
def one_shard(shards):
    """The folder with a single training shard, so that it can be read a thousand times within seconds."""
    manifest = load_manifest(shards)
    train = manifest.split("train")
    train = dataclasses.replace(train, samples=train.shards[0].samples, shards=train.shards[:1])
    manifest = dataclasses.replace(manifest, splits=manifest.splits | {"train": train})
    (shards / "manifest.json").write_text(manifest.to_json())
    return shards


@pytest.mark.parametrize(("damage", "harmless"), [(flipped, 0.35), (truncated, 0.0)])
def test_no_damage_goes_unnoticed(one_shard, damage, harmless):
    expected, chance, messages = read_all(one_shard), random.Random(0), []
    whole = {name: (one_shard / name).read_bytes() for name in ("train-00000.tar", "train-00000.index.npy")}
    for number in range(1000):
        name = list(whole)[number % 10 == 0]  # a tenth of the damage is done to the index
        (one_shard / name).write_bytes(damage(whole[name], chance))
        try:
            assert read_all(one_shard) == expected, "other data without an error"
        except ShardError as error:
            messages.append(str(error))
        (one_shard / name).write_bytes(whole[name])
    assert all(NAMED.match(message) for message in messages)
    # The rest of the damage is in the tar's closing blocks, which hold no data.
    assert len(messages) >= 1000 * (1 - harmless)
