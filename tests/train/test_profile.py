"""`--train.profile` writes a trace of the requested steps without paths, and does not change the training."""

import contextlib
import dataclasses
import gzip
import json
from pathlib import Path

import pytest
import torch
from run_losses import losses

from cxr_dist.run.preempt import StopRequest
from cxr_dist.train.assembly import train
from cxr_dist.train.loop import Outcome
from cxr_dist.train.profile import StepProfile

LAST = 3


def strings(value):
    """All strings in a JSON value."""
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list):
        return set().union(*map(strings, value))
    return {value} if isinstance(value, str) else set()


def traces(folder):
    return sorted(path.name for path in folder.glob("*"))


def test_profiling_traces_the_requested_steps_and_changes_no_loss(tiny_config, tmp_path, capfd):
    settings = dataclasses.replace(tiny_config.train, max_steps=LAST)
    data = dataclasses.replace(tiny_config.data, micro_batch=16)
    plain = dataclasses.replace(tiny_config, data=data, train=settings, out=str(tmp_path / "plain"))
    profiled = dataclasses.replace(
        plain, train=dataclasses.replace(settings, profile="1:3"), out=str(tmp_path / "profiled")
    )
    for config in (plain, profiled):
        assert train(config, StopRequest(0)) is Outcome.FINISHED
    assert losses(tmp_path / "profiled") == losses(tmp_path / "plain")
    said = capfd.readouterr().err
    table = said.partition("profile of steps 2 to 3: ")[2].splitlines()
    assert table[1].split() == ["largest", "costs", "on", "the", "CPU", "calls", "self", "ms", "share"]
    shares = [float(line.split()[-1].removesuffix("%")) for line in table[2:12]]
    assert shares == sorted(shares, reverse=True)
    assert 50 < sum(shares) <= 100.5
    folder = tmp_path / "profiled" / "profile"
    assert traces(folder) == ["rank0-steps-2-3.pt.trace.json.gz"]
    trace = json.loads(gzip.decompress((folder / traces(folder)[0]).read_bytes()))
    names = [event["name"] for event in trace["traceEvents"]]
    assert names.count("step") == names.count("waiting for data") == 2
    assert "aten::convolution_backward" in names
    assert not [text for text in strings(trace) if "/" in text or ".py" in text or "\n" in text]
    # The setting may change when a run resumes. Here no steps remain.
    later = dataclasses.replace(profiled, train=dataclasses.replace(settings, profile="7:9"))
    assert train(later, StopRequest(0)) is Outcome.FINISHED
    assert "nothing was profiled: this start ended after 0 steps" in capfd.readouterr().err


def profile_of(steps, folder, said):
    return StepProfile(steps, folder, said.append, contextlib.nullcontext)


def take(profile, numbers):
    for number in numbers:
        with profile.step(number):
            torch.ones(3).sum()


def test_a_run_that_ends_early_writes_the_steps_recorded_so_far(tmp_path):
    said = []
    with profile_of(range(1, 9), tmp_path / "profile", said) as profile:
        take(profile, [101, 102, 103])
    assert traces(tmp_path / "profile") == ["rank0-steps-102-103.pt.trace.json.gz"]
    assert said[0].startswith("profile of steps 102 to 103: ")


def test_a_step_that_fails_stops_the_recording_and_raises_its_error(tmp_path):
    with pytest.raises(ZeroDivisionError), profile_of(range(9), tmp_path / "profile", []) as profile:  # noqa: SIM117
        with profile.step(1):
            raise ZeroDivisionError
    assert not traces(tmp_path / "profile")
    with profile_of(range(1), tmp_path / "profile", []) as profile:  # torch allows only one profile at a time
        take(profile, [1])
    assert len(traces(tmp_path / "profile")) == 1


@pytest.mark.parametrize("steps", [range(0), range(2)])
def test_nothing_is_recorded_without_steps_or_on_other_ranks(steps, tmp_path):
    said = []
    with profile_of(steps, None, said) as profile:
        take(profile, [1, 2, 3])
    assert not said
    assert not traces(Path(tmp_path))
