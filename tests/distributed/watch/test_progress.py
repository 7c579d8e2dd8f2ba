"""The place of a rank, and startup.jsonl: one line per start, whose phases add up to the total."""

import json
import subprocess
import sys
import time

import pytest

from cxr_dist.distributed.watch.progress import (
    Place,
    advance,
    enter,
    first_step_done,
    join,
    read_starts,
    start_clock,
    where,
)
from cxr_dist.distributed.world import World


def test_a_place_has_step_phase_and_how_many_were_entered_since_the_ranks_met():
    enter("checking the configuration")
    join()
    assert where() == (Place(0, "joining the other ranks", 0), 0)
    enter("waiting for data", 3)
    enter("forward and backward")
    assert where() == (Place(3, "forward and backward", 2), 0)
    advance()
    assert where() == (Place(3, "forward and backward", 2), 1)


def end(run_dir, world=World(), step=1):  # noqa: B008 (frozen)
    said = []
    first_step_done(run_dir, step, world, lambda: time.sleep(0.02), said.append)
    return said


def test_phases_add_up_and_a_phase_met_twice_is_one(tmp_path):
    start_clock()
    before = time.time()
    for phase in ("building the model", "importing torch", "update", "checking the configuration"):
        time.sleep(0.02)
        enter(phase)
    (said,) = end(tmp_path, step=7)
    (line,) = read_starts(tmp_path)
    assert list(line["seconds"]) == ["python", "imports", "model", "checks", "first step"]
    assert line["total"] == pytest.approx(sum(line["seconds"].values()), abs=0.01)
    assert line["seconds"]["imports"] >= 0.06  # includes `update`, which is not timed separately
    assert min(line["seconds"]["model"], line["seconds"]["first step"]) >= 0.02
    assert line["total"] - line["seconds"]["python"] == pytest.approx(time.time() - before, abs=0.1)
    assert (line["step"], line["world_size"]) == (7, 1)
    assert said.startswith(f"first step after {line['total']:.1f} s: python ")


def test_a_start_ends_with_its_first_step_and_only_rank_0_writes(tmp_path):
    start_clock()
    assert end(tmp_path, World(rank=1, world_size=2)) == []
    assert read_starts(tmp_path) == []
    start_clock()
    assert len(end(tmp_path, World(rank=0, world_size=2))) == 1
    enter("importing torch")
    assert end(tmp_path) == []
    assert len(read_starts(tmp_path)) == 1


def test_the_python_phase_counts_from_the_start_of_the_process():
    code = "import json, sys, time; time.sleep(0.5); from cxr_dist.distributed.watch import progress\n"
    code += "progress.start_clock(); print(json.dumps([progress._start.seconds, 'torch' in sys.modules]))"
    before = time.time()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, has_torch = json.loads(done.stdout)
    assert 0.5 <= seconds["python"] <= time.time() - before + 0.02
    assert not has_torch


def test_a_run_prints_the_times_of_its_start(cxr_dist, tiny_shards, tmp_path):
    small = (
        "--data.global-batch",
        16,
        "--data.micro-batch",
        16,
        "--data.image-size",
        32,
        "--train.log-every",
        1,
    )
    command = ("train", "demo", *small, "--model.mode", "image", "--data.shards", tiny_shards)
    status, _, err = cxr_dist(*command, "--train.max-steps", 1, "--out", tmp_path / "run")
    assert status == 0
    assert "first step after" in err
    (line,) = read_starts(tmp_path / "run")
    phases = ["python", "imports", "checks", "meeting", "run folder", "model", "restoring", "first batch"]
    assert list(line["seconds"]) == [*phases, "first step"]


def test_an_image_only_run_does_not_import_transformers():
    """Importing transformers reads 1,600 files on each rank."""
    code = "import sys, cxr_dist.train.assembly\nfrom cxr_dist.config.run import ModelConfig\n"
    code += "from cxr_dist.model.classifier import build_classifier\n"
    code += "build_classifier(ModelConfig(mode='image', image_encoder='densenet-narrow'), 2, None)\n"
    code += "assert 'cxr_dist.train.loop' in sys.modules and 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
