"""`auto` is replaced by the micro-batch of the folder or of the ranks, and by the least recomputation that fits."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from run_losses import losses

from cxr_dist.config.file import load_config, to_yaml
from cxr_dist.distributed.world import World
from cxr_dist.errors import UserError
from cxr_dist.format.manifest import load_manifest
from cxr_dist.run.preempt import StopRequest
from cxr_dist.train.assembly import train
from cxr_dist.train.loop import Outcome
from cxr_dist.train.memory import settle
from cxr_dist.train.memory.footprint import footprint
from cxr_dist.train.memory.micro_batch import with_micro_batch
from cxr_dist.train.memory.needs import peak, with_checkpointing
from cxr_dist.train.memory.settle import settled, with_recorded_micro_batch

CPU = torch.device("cpu")
SHARE = 0.8  # share of a device's memory that the choice of gradient checkpointing uses


def auto_micro_batch(config):
    return dataclasses.replace(config, data=dataclasses.replace(config.data, micro_batch="auto"))


@pytest.fixture
def settle_for(tiny_shards, small_bert):
    """settle_for(config, largest=8) -> the configuration without `auto`, at world size 1."""

    def prepare(config):
        assert config.data.micro_batch != "auto"
        shutil.copytree(small_bert, config.run_dir / "text_encoder", dirs_exist_ok=True)

    def run(config, largest=8):
        manifest = load_manifest(tiny_shards)
        return settled(config, manifest, World(), largest=largest, prepare=prepare)

    return run


def test_the_micro_batch_of_an_existing_run_is_used(tiny_config, tmp_path):
    asked = dataclasses.replace(auto_micro_batch(tiny_config), out=str(tmp_path))
    assert with_recorded_micro_batch(asked) == asked
    (tmp_path / "config.yaml").write_text(to_yaml(tiny_config))
    assert with_recorded_micro_batch(asked).data.micro_batch == tiny_config.data.micro_batch
    other = dataclasses.replace(asked, seed=99)
    with pytest.raises(UserError, match=r"holds a run of another configuration:\n  seed: 1 -> 99\n"):
        with_recorded_micro_batch(other)


def test_the_micro_batch_that_fits_is_used_and_if_none_does_there_is_advice(tiny_config, settle_for):
    assert settle_for(auto_micro_batch(tiny_config), 8) == with_micro_batch(tiny_config, 8)
    assert settle_for(tiny_config, 8) == tiny_config
    with pytest.raises(UserError, match=r"not even 1 fits CPU, .*tried with DDP.*\n  --model.gradient"):
        settle_for(auto_micro_batch(tiny_config), 0)


def test_both_settings_may_be_auto(tiny_config, settle_for):
    config = settle_for(with_checkpointing(auto_micro_batch(tiny_config), "auto"), 8)
    assert (config.data.micro_batch, config.model.gradient_checkpointing) == (8, "off")


@pytest.fixture
def auto(tiny_config):
    """`tiny_config` with gradient checkpointing `auto`."""
    return with_checkpointing(tiny_config, "auto")


@pytest.fixture
def choose(auto, settle_for, monkeypatch):
    """choose(usable bytes) -> the chosen setting."""

    def run(room):
        monkeypatch.setattr(settle, "total_memory", lambda *_: math.ceil(room / SHARE))
        return settle_for(auto).model.gradient_checkpointing

    return run


@pytest.fixture
def needs(auto, tiny_shards, small_bert):
    """Setting -> predicted bytes."""
    classes, predicted = len(load_manifest(tiny_shards).classes), {}
    for setting in ("off", "image", "text", "all"):
        one = footprint(with_checkpointing(auto, setting), classes, small_bert, "cpu")
        predicted[setting] = peak(one, "ddp", ranks=1, several=True, averaged=False)
    return predicted


def test_auto_is_the_least_recomputation_that_fits(needs, choose, capsys):
    assert needs["all"] < min(needs["image"], needs["text"])
    assert max(needs["image"], needs["text"]) < needs["off"]
    for room in (*needs.values(), needs["all"] - 1):
        expected = next((setting for setting in needs if needs[setting] <= room), "all")
        assert choose(room) == expected
        assert f"model.gradient_checkpointing auto: {expected} on CPU" in capsys.readouterr().err


def test_a_footprint_is_computed_once_and_again_for_other_software(needs, choose, auto, monkeypatch):
    assert choose(needs["text"]) == "text"
    path = auto.run_dir / "footprints.json"
    assert set(json.loads(path.read_text())["bytes"]) == {"off", "image", "text"}
    monkeypatch.setattr(settle, "footprint", None)
    assert choose(needs["text"]) == "text"
    path.write_text(path.read_text().replace('"torch": "', '"torch": "1.'))
    with pytest.raises(TypeError):
        choose(needs["text"])
    path.write_text(path.read_text()[:-9])  # truncated
    with pytest.raises(TypeError):
        choose(needs["text"])


def test_auto_with_one_encoder_recomputes_it_or_nothing(auto, settle_for, monkeypatch):
    config = dataclasses.replace(auto, model=dataclasses.replace(auto.model, mode="image"))
    for room, expected in ((2**40, "off"), (1, "image")):
        monkeypatch.setattr(settle, "total_memory", lambda *_, size=room: size)
        assert settle_for(config).model.gradient_checkpointing == expected


def test_a_run_resumes_with_another_gradient_checkpointing(tiny_config, tmp_path):
    """`auto` recomputes nothing here, the resumed half everything; losses agree up to rounding."""
    steps = dataclasses.replace(tiny_config.train, max_steps=4, save_every=2)
    config = dataclasses.replace(with_checkpointing(tiny_config, "auto"), train=steps)
    assert train(config, StopRequest(0)) is Outcome.FINISHED
    assert load_config(config.run_dir / "config.yaml").model.gradient_checkpointing == "auto"
    copy = tmp_path / "resumed"
    shutil.copytree(config.out, copy, symlinks=True)
    shutil.rmtree(copy / "checkpoints" / "step-00000004")
    (copy / "finished.json").unlink()
    resumed = dataclasses.replace(with_checkpointing(config, "all"), out=str(copy))
    assert train(resumed, StopRequest(0)) is Outcome.FINISHED
    assert losses(copy) == pytest.approx(losses(Path(config.out)), rel=1e-4)
