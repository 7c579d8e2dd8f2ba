"""The scores of heat maps against boxes have the same bytes at one, two and three ranks."""

import json
import shutil

import pytest
from made_boxes import finder_run, write_box_shards

from cxr_dist.format.manifest import load_manifest

pytestmark = pytest.mark.multiprocess


def test_boxes_are_scored_the_same_at_any_world_size(run_ranks, tmp_path):
    """Takes about 15 s, because its commands import torch. At three ranks one has no batch."""
    shards = write_box_shards(tmp_path, 36)
    assert 8 < load_manifest(shards).splits["test"].samples <= 16  # two evaluation batches
    made, written = finder_run(shards, tmp_path / "made", mode="fused"), set()
    for size in (1, 2, 3):
        run = shutil.copytree(made, tmp_path / f"run{size}", symlinks=True)
        run_ranks(size, "evaluate", run, "--boxes", "--mc-samples", "2")
        written.add((run / "evaluation" / "test" / "metrics.json").read_bytes())
    assert len(written) == 1
    maps = json.loads(written.pop())["explanations"]["all"]["maps"]
    assert all(maps[name]["hit_rate"]["low"] is not None for name in ("grad_cam", "attention", "random"))
