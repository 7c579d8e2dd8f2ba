"""The plan and the manifest of very many shards, from their counts alone, without any tar files."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxr_dist.data.plan import Plan, group_weights
from cxr_dist.files import sha256_of
from cxr_dist.format.manifest import Manifest, ShardEntry, SplitEntry
from cxr_dist.format.shard_list import ShardTable, table_dtype

Counts = NDArray[np.int64]
"""Samples, [shards, groups]."""


def plan_of(counts: Counts, num_lanes: int) -> Plan:
    """A plan with weighted sampling."""
    return Plan(
        shard_group_counts=counts,
        weights=group_weights(counts.sum(axis=0), temper=1.0),
        global_batch=num_lanes * 16,
        micro_batch=16,
        seed=0,
    )


def write_tabled(folder: Path, counts: Counts) -> None:
    """Write a manifest whose training shards are in a table, like `write_table`, but column by column."""
    folder.mkdir()
    records = np.zeros(len(counts), table_dtype(counts.shape[1]))
    records["stem"] = [f"train-{number:07d}".encode() for number in range(len(counts))]
    records["samples"], records["bytes"] = counts.sum(axis=1), 40_000_000
    records["sha256"] = np.random.default_rng(0).integers(0, 256, (len(counts), 32), np.uint8)
    records["group_counts"] = counts
    table = folder / "train.shards.npy"
    np.save(table, records, allow_pickle=False)
    _write_manifest(folder, counts, ShardTable(table, sha256_of(table)))


def write_listed(folder: Path, counts: Counts) -> None:
    """Write a manifest that lists its training shards as JSON."""
    folder.mkdir()
    entries = tuple(
        ShardEntry(
            file=f"train-{number:07d}.tar",
            index=f"train-{number:07d}.index.npy",
            samples=sum(row),
            bytes=40_000_000,
            sha256="0" * 64,
            index_sha256="0" * 64,
            group_counts=tuple(row),
        )
        for number, row in enumerate(counts.tolist())
    )
    _write_manifest(folder, counts, entries)


def sizes_of(folder: Path) -> dict[str, int]:
    """The size of each file of the folder in bytes."""
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir())}


def _write_manifest(folder: Path, counts: Counts, shards: ShardTable | tuple[ShardEntry, ...]) -> None:
    classes = tuple(f"class {number}" for number in range(counts.shape[1]))
    samples = int(counts.sum())
    manifest = Manifest(
        recipe={},
        reader="demo",
        task="multiclass",
        classes=classes,
        text_sections=(),
        split_by="patient",
        image={"short_side": 256, "quality": 92},
        made_data=True,
        source_rows=samples,
        left_out={},
        splits={"train": SplitEntry(samples=samples, patients=samples, label_counts={}, shards=shards)},
    )
    (folder / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")
