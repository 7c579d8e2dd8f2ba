"""A copy of the tiny shards that a test may damage, and a function that damages it."""

import shutil
from pathlib import Path

import pytest

from cxr_dist.format.manifest import load_manifest, open_index


@pytest.fixture
def shards(tiny_shards: Path, tmp_path: Path) -> Path:
    """A copy of `tiny_shards`."""
    return Path(shutil.copytree(tiny_shards, tmp_path / "shards"))


@pytest.fixture
def flip_a_bit():
    """A function flip_a_bit(shards, shard, sample) that flips one bit of a training image in its stored bytes."""

    def flip(folder: Path, shard: int, sample: int) -> None:
        manifest = load_manifest(folder)
        entry = manifest.split("train").shards[shard]
        record = open_index(folder, entry, manifest.num_labels)[sample]
        with (folder / entry.file).open("r+b") as file:
            file.seek(int(record["jpg_offset"]) + 300)
            byte = file.read(1)[0]
            file.seek(-1, 1)
            file.write(bytes([byte ^ 1]))

    return flip
