"""Averaging the weights does not change the training; the averages are saved, and a resumed run continues exactly."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from run_losses import losses
from safetensors.torch import load_file

from cxr_dist.errors import UserError
from cxr_dist.run.preempt import StopRequest
from cxr_dist.train.assembly import train
from cxr_dist.train.loop import Outcome

DECAY, STEPS, RESUMED = 0.9, 5, 3


def averaging(config, decay, out):
    """A run of five steps with this decay that saves after each step."""
    settings = replace(config.train, max_steps=STEPS, save_every=1, keep_checkpoints=STEPS)
    optim = replace(config.optim, ema_decay=decay)
    return replace(config, train=settings, optim=optim, out=str(out))


def saved(out, step, name):
    return load_file(Path(out) / "checkpoints" / f"step-{step:08d}" / f"{name}.safetensors")


@pytest.fixture
def averaged(tiny_config, tmp_path):
    out = tmp_path / "averaged"
    assert train(averaging(tiny_config, DECAY, out), StopRequest(0)) is Outcome.FINISHED
    return out


def test_the_averages_are_those_of_the_weights_of_the_same_run_without_averaging(averaged, tiny_config, tmp_path):
    plain = tmp_path / "plain"
    train(averaging(tiny_config, 0.0, plain), StopRequest(0))
    assert losses(averaged) == losses(plain)
    average = None
    for step in range(1, STEPS + 1):
        weights, model = saved(plain, step, "model"), saved(averaged, step, "model")
        optimizer = saved(averaged, step, "optimizer")
        raw = {name.removeprefix("parameter/"): v for name, v in optimizer.items() if "parameter/" in name}
        assert all(value.equal(weights[name]) for name, value in raw.items())
        buffers = model.keys() - raw.keys()
        assert buffers
        assert all(model[name].equal(weights[name]) for name in buffers)
        assert model.keys() == weights.keys()
        if average is not None:
            for name, value in raw.items():
                expected = torch.lerp(average[name], value, 1.0 - DECAY)
                assert model[name].equal(expected), (step, name)
        average = model
    assert not all(average[name].equal(value) for name, value in raw.items())


def test_a_resumed_run_has_the_same_averages_bit_for_bit(averaged, tiny_config, tmp_path):
    out = tmp_path / "resumed"
    shutil.copytree(averaged, out, symlinks=True)
    for step in range(RESUMED + 1, STEPS + 1):
        shutil.rmtree(out / "checkpoints" / f"step-{step:08d}")
    (out / "best").unlink()
    assert train(averaging(tiny_config, DECAY, out), StopRequest(0)) is Outcome.FINISHED
    for name in ("model", "optimizer"):
        expected = saved(averaged, STEPS, name)
        resumed = saved(out, STEPS, name)
        assert resumed.keys() == expected.keys()
        assert not [key for key, value in resumed.items() if not value.equal(expected[key])]


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_outside_of_its_range_is_refused(tiny_config, decay):
    with pytest.raises(UserError, match=r"optim\.ema_decay is .*; expected 0 \(off\) to below 1, as 0\.999"):
        replace(tiny_config.optim, ema_decay=decay)
