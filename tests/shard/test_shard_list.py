"""A table of shards is equivalent to a list for the plan, the reader, `verify` and a URL, and damage is reported."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_server import serving
from table_source import make_source, table_recipe

from cxr_dist.config.data import DataConfig
from cxr_dist.data.place import open_store, shards_folder
from cxr_dist.errors import UserError
from cxr_dist.files import sha256_of
from cxr_dist.format import manifest as manifests
from cxr_dist.format.manifest import load_manifest
from cxr_dist.format.shard_list import ShardEntry, ShardTable, column, write_table
from cxr_dist.shard.output_folder import UNFINISHED, keep_only
from cxr_dist.shard.verify import verify
from cxr_dist.shard.write import write_shards

digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
counts = st.integers(0, 2**31 - 1)


@settings(deadline=None, max_examples=30)  # each example writes a file
@given(st.lists(st.tuples(counts, st.integers(0, 2**62), digests, digests, st.tuples(counts, counts)), min_size=1))
def test_entries_are_read_as_they_were_written(tmp_path_factory, rows):
    entries = tuple(
        ShardEntry(
            file=f"val-{place:05d}.tar",
            index=f"val-{place:05d}.index.npy",
            samples=samples,
            bytes=size,
            sha256=tar,
            index_sha256=index,
            group_counts=groups,
        )
        for place, (samples, size, tar, index, groups) in enumerate(rows)
    )
    table = write_table(tmp_path_factory.mktemp("table") / "val.shards.npy", entries)
    assert (tuple(table), table[:], len(table), table[-1]) == (entries, entries, len(entries), entries[-1])
    for name in ("samples", "bytes", "group_counts"):
        np.testing.assert_array_equal(column(table, name), column(entries, name))


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Two folders of the same data: one with lists, and one with a table for each split of more than 2 shards."""
    source, recipe = make_source(tmp_path / "source"), table_recipe()
    write_shards(recipe, source, tmp_path / "listed", workers=0)
    monkeypatch.setattr(manifests, "MOST_LISTED", 2)
    write_shards(recipe, source, tmp_path / "tabled", workers=0)
    return tmp_path / "listed", tmp_path / "tabled"


def test_a_folder_with_a_table_has_the_same_manifest(written):
    listed, tabled = map(load_manifest, written)
    assert isinstance(tabled.splits["train"].shards, ShardTable)
    assert isinstance(tabled.splits["val"].shards, tuple)
    as_list = {name: replace(split, shards=tuple(split.shards)) for name, split in tabled.splits.items()}
    assert replace(tabled, splits=as_list) == listed
    assert tabled.to_json() == (written[1] / "manifest.json").read_text()
    assert verify(written[1]) == []
    names = [{path.name for path in folder.iterdir()} for folder in written]
    assert names[1] - names[0] == {"train.shards.npy"}


def test_tables_are_fetched_from_a_url(written, tmp_path):
    with serving(written[1]) as server:
        data = DataConfig(shards=server.http, stage_dir=str(tmp_path / "disk"))
        manifest = load_manifest(shards_folder(data))
        store = open_store(data, manifest, "train")
        keys = [store.read(s, i)["__key__"] for s, e in enumerate(store.shards) for i in range(e.samples)]
        store.close()
        requests = server.requests["train.shards.npy"]
        copy = shards_folder(data) / "train.shards.npy"
        assert server.requests["train.shards.npy"] == requests
        copy.write_bytes(b"truncated")
        assert load_manifest(shards_folder(data)) is not None
        assert server.requests["train.shards.npy"] > requests
    assert len(set(keys)) == manifest.split("train").samples


def test_a_damaged_or_missing_table_is_reported(written):
    table = written[1] / "train.shards.npy"
    content = bytearray(table.read_bytes())
    content[-3] ^= 1
    table.write_bytes(content)
    message = r"train\.shards\.npy is missing or does not have the bytes .* \(its sha256 differs\): copy it"
    with pytest.raises(UserError, match=message):
        load_manifest(written[1])
    table.unlink()
    with pytest.raises(UserError, match=message):
        load_manifest(written[1])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.arange(3), "is not a table of shards"),
        (np.array([{}], dtype=object), "is not a table of shards"),
    ],
)
def test_an_array_that_is_not_a_table_is_refused(tmp_path, array, message):
    np.save(tmp_path / "train.shards.npy", array, allow_pickle=True)
    with pytest.raises(UserError, match=message):
        ShardTable(tmp_path / "train.shards.npy", sha256_of(tmp_path / "train.shards.npy"))


def test_a_table_in_another_folder_is_refused(written):
    text = (written[1] / "manifest.json").read_text().replace('"train.shards.npy"', '"../train.shards.npy"')
    body = re.sub(r',\n "sha256": "[0-9a-f]{64}"\n}\n$', "", text)
    (written[1] / "manifest.json").write_text(f'{body},\n "sha256": "{manifests._sha256(body)}"\n}}\n')
    json.loads((written[1] / "manifest.json").read_text())
    with pytest.raises(UserError, match=r"does not write \(expected NAME\.shards\.npy\)"):
        load_manifest(written[1])


def test_the_table_of_an_interrupted_run_is_removed(tmp_path):
    (tmp_path / UNFINISHED).mkdir()
    for name in ("train.shards.npy", "mine.shards.npy"):
        Path(tmp_path / name).touch()
    keep_only(tmp_path, [])
    assert {path.name for path in tmp_path.iterdir()} == {UNFINISHED, "mine.shards.npy"}
