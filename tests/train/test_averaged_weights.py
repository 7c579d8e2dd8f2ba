"""Averaging does not change the training; weights and buffers are averaged and saved, and a resumed run is exact."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from run_losses import losses
from safetensors.torch import load_file, save_file

from cxr_dist.errors import UserError
from cxr_dist.files import sha256_of
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
        kinds = {name: name.split("/", 1) for name in optimizer}
        raw = {name: optimizer[key] for key, (kind, name) in kinds.items() if kind in ("parameter", "buffer")}
        assert all(value.equal(weights[name]) for name, value in raw.items())
        counters = model.keys() - raw.keys()
        assert all(name.endswith("num_batches_tracked") for name in counters)
        assert all(model[name].equal(weights[name]) for name in counters)
        assert model.keys() == weights.keys()
        share = 1.0 - min(DECAY, 1 - step ** (-2 / 3))
        for name, value in raw.items():
            expected = value if average is None else torch.lerp(average[name], value, share)
            assert model[name].equal(expected), (step, name)
        average = model
    moved = [name for name, value in raw.items() if not average[name].equal(value)]
    assert {"running_mean", "running_var", "weight", "bias"} <= {name.split(".")[-1] for name in moved}


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


def test_a_checkpoint_of_a_release_that_did_not_average_buffers_resumes(averaged, tiny_config, tmp_path):
    """Its model has the buffers of the training weights, from which their average starts."""
    out = tmp_path / "older"
    shutil.copytree(averaged, out, symlinks=True)
    for step in range(RESUMED + 1, STEPS + 1):
        shutil.rmtree(out / "checkpoints" / f"step-{step:08d}")
    (out / "best").unlink()
    kept = out / "checkpoints" / f"step-{RESUMED:08d}"
    model, optimizer = saved(out, RESUMED, "model"), saved(out, RESUMED, "optimizer")
    buffers = {name.removeprefix("buffer/"): value for name, value in optimizer.items() if name.startswith("buffer/")}
    older = {name: value for name, value in optimizer.items() if not name.startswith("buffer/")}
    save_file(model | buffers, kept / "model.safetensors")
    save_file(older, kept / "optimizer.safetensors")
    sums = {name: sha256_of(kept / name) for name in json.loads((kept / "sha256.json").read_text())}
    (kept / "sha256.json").write_text(json.dumps(sums))
    assert train(averaging(tiny_config, DECAY, out), StopRequest(0)) is Outcome.FINISHED
    assert losses(out) == losses(averaged)
    found, expected = (saved(folder, STEPS, "model") for folder in (out, averaged))
    assert all(found[name].equal(value) for name, value in expected.items() if name not in buffers)
    for name, value in buffers.items():
        for step in range(RESUMED + 1, STEPS + 1):
            raw = saved(out, step, "optimizer")[f"buffer/{name}"]
            value = torch.lerp(value, raw, 1.0 - min(DECAY, 1 - step ** (-2 / 3)))
        assert found[name].equal(value), name


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_outside_of_its_range_is_refused(tiny_config, decay):
    with pytest.raises(UserError, match=r"optim\.ema_decay is .*; expected 0 to below 1"):
        replace(tiny_config.optim, ema_decay=decay)
