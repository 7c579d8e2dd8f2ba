"""An evaluation of other shards has the same bytes at one, two and three ranks."""

import json
import shutil

import pytest
from made_shards import write_other_shards

pytestmark = pytest.mark.multiprocess


@pytest.mark.parametrize("more", [(), ("--recalibrate",)], ids=["own calibration", "recalibrated"])
def test_other_shards_are_evaluated_the_same_at_any_world_size(finished_runs, run_ranks, tmp_path, more):
    """Takes about 15 s, because each of its commands imports torch."""
    changes = (
        "seed: 0}",
        "seed: 5}",
        "Nodule: nodule",
        "Mass: nodule",
        "{Normal: normal, ",
        "{",
        "Mass",
        "Normal: normal, Mass",
    )
    other = write_other_shards(tmp_path, *changes)
    (tmp_path / "map.yaml").write_text("not evaluated: [Mass]\n")
    named = ("--shards", other, "--name", "other", "--class-map", tmp_path / "map.yaml", "--mc-samples", "3", *more)
    written = set()
    for size in (1, 2, 3):
        run = shutil.copytree(finished_runs[1], tmp_path / f"run{size}", symlinks=True)
        shutil.rmtree(run / "evaluation", ignore_errors=True)
        run_ranks(size, "evaluate", run, *named)
        files = sorted((run / "evaluation").rglob("*.*"))
        names = ("other",) if more else ("other", "val")
        assert [path.parent.name for path in files] == [name for name in names for _ in range(2)]
        written.add(b"".join(path.read_bytes() for path in files))
    assert len(written) == 1
    external = json.loads((run / "evaluation" / "other" / "metrics.json").read_text())["external"]
    assert external["classes_not_evaluated"].keys() == {"Nodule"}
    assert external["samples_left_out"]["Mass"] > 0
    assert external["recalibrated"] is bool(more)
