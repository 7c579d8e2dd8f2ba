"""The start-up benchmark reports the phases that a run recorded, preceded by the time of the launcher."""

import os

import pytest

from benchmarks.startup.ways import PLAIN, medians, phases, starting

LINE = {"began": "2026-01-02T03:04:05.250+00:00", "total": 4.0, "seconds": {"python": 1.0, "first step": 3.0}}


def test_the_launch_is_the_time_before_the_process_started():
    launched = 1767323043.0  # 03:04:03 UTC
    seconds = phases(LINE, launched)
    assert list(seconds) == ["launch", "python", "first step", "total"]
    assert seconds["launch"] == pytest.approx(2.25)
    assert seconds["total"] == pytest.approx(6.25)


def test_medians_are_taken_phase_by_phase():
    turns = [{"launch": 1.0, "total": 9.0}, {"launch": 3.0, "total": 5.0}, {"launch": 2.0, "total": 8.0}]
    assert medians(turns) == {"launch": 2.0, "total": 8.0}


def test_a_plain_start_is_measured_and_a_failed_one_is_an_error(tiny_shards, tmp_path):
    start = starting(PLAIN, tiny_shards, dict(os.environ))
    small = ("demo", "--model.mode", "image", "--data.image-size", "32", "--train.max-steps", "1")
    seconds = start((*small, "--data.workers", "0"), tmp_path / "run")
    assert seconds["total"] == pytest.approx(sum(seconds.values()) - seconds["total"], abs=0.05)
    assert seconds["launch"] > -0.02  # the kernel records the start of a process in ticks of 10 ms
    with pytest.raises(RuntimeError, match=r"no first step: (?s:.*)data.workers is -1"):
        start((*small, "--data.workers", "-1"), tmp_path / "other")
