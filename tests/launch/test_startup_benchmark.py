"""The start-up benchmark reads the times that a run recorded of its start, and adds the time of the launcher."""

import os

import pytest

from benchmarks.startup.ways import PLAIN, medians, phases, starting

LINE = {"began": "2026-01-02T03:04:05.250+00:00", "total": 4.0, "seconds": {"python": 1.0, "first step": 3.0}}


def test_the_launch_is_the_time_before_the_process_started():
    launched = 1767323043.0  # 03:04:03 UTC
    found = phases(LINE, launched)
    assert list(found) == ["launch", "python", "first step", "total"]
    assert found["launch"] == pytest.approx(2.25)
    assert found["total"] == pytest.approx(6.25)


def test_medians_are_taken_for_each_phase():
    turns = [{"launch": 1.0, "total": 9.0}, {"launch": 3.0, "total": 5.0}, {"launch": 2.0, "total": 8.0}]
    assert medians(turns) == {"launch": 2.0, "total": 8.0}


def test_a_plain_start_is_measured_and_a_refused_one_is_an_error(tiny_shards, tmp_path):
    start = starting(PLAIN, tiny_shards, dict(os.environ))
    small = ("demo", "--model.mode", "image", "--data.image-size", "32", "--train.max-steps", "1")
    found = start((*small, "--data.workers", "0"), tmp_path / "run")
    assert found["total"] == pytest.approx(sum(found.values()) - found["total"], abs=0.05)
    assert found["launch"] > -0.02  # the kernel records the start of a process in ticks of 10 ms
    with pytest.raises(RuntimeError, match=r"no first step: (?s:.*)data.workers is -1"):
        start((*small, "--data.workers", "-1"), tmp_path / "other")
