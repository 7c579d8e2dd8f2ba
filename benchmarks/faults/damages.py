"""Kinds of damage to a shard, each a function on a folder of shards, and the readers that are tested with them.

The outcome is `noticed` for an error, `harmless` if all samples are as they were written, and else `silent`.
"""

import contextlib
import io
import shutil
import tarfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import webdataset
from PIL import Image

from benchmarks.checkpoint_faults.trials import flip
from benchmarks.films import make_shards
from cxr_dist.data.read import reader
from cxr_dist.data.store import ShardStore
from cxr_dist.format.manifest import load_manifest

Samples = dict[str, tuple[bytes, bytes]]
Damage = Callable[[Path, Random], None]


def small_shards(folder: Path) -> Path:
    """A small shard folder of synthetic images with at least two training shards."""
    return make_shards(folder, studies=40, side=64, train=0.6, quality=90, per_shard=12)


def read_stock(shards: Path, handler: Callable[[Exception], bool]) -> Samples:
    """The members of every key, read by webdataset with one of its error handlers."""
    urls = sorted(str(path) for path in shards.glob("train-*.tar"))
    options = {"shardshuffle": False, "nodesplitter": None, "empty_check": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stream = webdataset.WebDataset(urls, handler=handler, **options).map(_decoded, handler=handler)
        return {sample["__key__"]: (sample.get("jpg", b""), sample.get("json", b"")) for sample in stream}


def _decoded(sample: dict[str, bytes]) -> dict[str, bytes]:
    """The sample, after its image, if it has one, was decoded by Pillow."""
    if "jpg" in sample:
        Image.open(io.BytesIO(sample["jpg"])).load()
    return sample


def read_ours(shards: Path) -> Samples:
    """The members of every key, read and decoded as in training."""
    manifest = load_manifest(shards)
    with contextlib.closing(ShardStore(shards, manifest, "train")) as store:
        read, found = reader(store, manifest.image["short_side"], 64), {}
        for shard, entry in enumerate(store.shards):
            for sample in range(entry.samples):
                read(shard, sample)
                raw = store.read(shard, sample)
                found[raw["__key__"]] = raw["jpg"], raw["json"]
        return found


READERS: dict[str, Callable[[Path], Samples]] = {
    "webdataset": lambda shards: read_stock(shards, webdataset.reraise_exception),
    "webdataset, warn_and_continue": lambda shards: read_stock(shards, webdataset.warn_and_continue),
    "cxr_dist": read_ours,
}


def outcome(read: Callable[[Path], Samples], shards: Path, expected: Samples) -> str:
    """`noticed` for an error, `harmless` if all samples are as they were written, else `silent`."""
    try:
        return "harmless" if read(shards) == expected else "silent"
    except Exception:  # any exception counts as noticed
        return "noticed"


def first_tar(shards: Path) -> Path:
    """The tar that the damage is applied to."""
    return shards / "train-00000.tar"


def _headers(shards: Path) -> list[int]:
    with tarfile.open(first_tar(shards)) as tar:
        return [item.offset for item in tar]


def flip_a_bit(shards: Path, chance: Random) -> None:
    """Flip one bit of a tar."""
    flip(first_tar(shards), chance)


def flip_a_bit_of_a_film(shards: Path, chance: Random) -> None:
    """Flip one bit of the compressed pixels of an image."""
    data, start = bytearray(first_tar(shards).read_bytes()), chance.choice(_headers(shards)[::2])
    data[start + 512 + 700 + chance.randrange(200)] ^= 1 << chance.randrange(8)
    first_tar(shards).write_bytes(data)


def cut_anywhere(shards: Path, chance: Random) -> None:
    """Cut a tar off at a random byte."""
    data = first_tar(shards).read_bytes()
    first_tar(shards).write_bytes(data[: chance.randrange(512, len(data))])


def cut_between_members(shards: Path, chance: Random) -> None:
    """Cut a tar off at the end of a member."""
    place = chance.choice(_headers(shards)[1:])
    first_tar(shards).write_bytes(first_tar(shards).read_bytes()[:place])


def zero_a_header(shards: Path, chance: Random) -> None:
    """Replace a header by zeros, like the hole in a half-copied file."""
    data, place = bytearray(first_tar(shards).read_bytes()), chance.choice(_headers(shards))
    data[place : place + 512] = bytes(512)
    first_tar(shards).write_bytes(data)


def drop_a_member(shards: Path, chance: Random) -> None:
    """Remove one member of a tar."""
    headers, data = _headers(shards), first_tar(shards).read_bytes()
    number = chance.randrange(len(headers) - 1)
    first_tar(shards).write_bytes(data[: headers[number]] + data[headers[number + 1] :])


def repeat_a_shard(shards: Path, chance: Random) -> None:
    """Replace a shard by a copy of another one, so that keys appear twice."""
    shutil.copyfile(shards / "train-00001.tar", first_tar(shards))


DAMAGES: dict[str, Damage] = {
    "one flipped bit in a shard": flip_a_bit,
    "one flipped bit in a film": flip_a_bit_of_a_film,
    "cut anywhere": cut_anywhere,
    "cut between members": cut_between_members,
    "a zeroed header": zero_a_header,
    "a member missing": drop_a_member,
    "keys twice, across shards": repeat_a_shard,
}


def measure_damages(whole: Path, folder: Path, repeats: int) -> dict[str, dict[str, dict[str, int]]]:
    """The number of each outcome, for every damage and reader."""
    expected, rows = read_ours(whole), {}
    for name, damage in DAMAGES.items():
        chance, counts = Random(0), {reader: Counter[str]() for reader in READERS}
        for _ in range(repeats):
            shards = Path(shutil.copytree(whole, folder / "damaged"))
            damage(shards, chance)
            for by, read in READERS.items():
                counts[by][outcome(read, shards, expected)] += 1
            shutil.rmtree(shards)
        rows[name] = {reader: dict(count) for reader, count in counts.items()}
    return rows
