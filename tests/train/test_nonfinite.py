"""Steps that are not finite are checked one step later and counted, and the message names their samples."""

import dataclasses
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from run_losses import losses
from safetensors.torch import load_file

from cxr_dist.data.batch import Batch, Replaced
from cxr_dist.data.draws import NOT_REPLACED, keys_of
from cxr_dist.data.loader import TrainingSource, training_plan
from cxr_dist.data.place import open_store
from cxr_dist.data.read import Replacing, reader
from cxr_dist.data.transfer import HostCopy
from cxr_dist.distributed.ddp import DataParallel
from cxr_dist.distributed.world import World
from cxr_dist.errors import UserError
from cxr_dist.format.manifest import load_manifest
from cxr_dist.run.preempt import StopRequest
from cxr_dist.train.assembly import train
from cxr_dist.train.nonfinite import NonFiniteSteps
from cxr_dist.train.step import StepResult

CPU = torch.device("cpu")
NAN, INF = math.nan, math.inf


def result_of(*numbers):
    """The result of a step with this gradient norm, followed by the losses of its lanes."""
    return StepResult(
        loss=torch.tensor(sum(numbers[1:])),
        numbers=HostCopy(torch.tensor(numbers, dtype=torch.float64)),
        stop_requested=False,
        num_replaced=0,
    )


def batch_of(*draws, replaced=()):
    ids = torch.tensor(draws)
    return Batch(
        images=None,
        tokens=None,
        attention_mask=None,
        labels=ids[:, None],
        groups=ids,
        sample_ids=ids,
        replaced=replaced,
    )


@pytest.fixture
def said():
    return []


@pytest.fixture
def watched(said):
    """A check that allows one step that is not finite."""

    def keys(epoch, draws):
        return [f"e{epoch}d{draw}" + f"r{other}" * (other != NOT_REPLACED) for draw, other in draws]

    return NonFiniteSteps(1, World(), said.append, keys)


GOOD, BATCHES = (1.0, 0.5, 0.5), [batch_of(7, 1), batch_of(3, 12)]


def test_a_step_is_checked_when_the_next_one_is_queued_or_when_settling(watched, said):
    watched.follow(1, 0, result_of(INF, 0.5, 0.5), BATCHES)
    assert said == []
    watched.follow(2, 0, result_of(*GOOD), BATCHES)
    assert said == ["step 1: loss or gradient not finite, update left out"]
    watched.follow(3, 0, result_of(NAN, NAN, 0.5), BATCHES)
    assert len(said) == 1
    watched.settle()
    assert said[1:] == ["step 3: loss or gradient not finite, update left out"]
    watched.settle()
    assert len(said) == 2


def test_only_consecutive_steps_count(watched, said):
    for step in range(1, 9, 2):
        watched.follow(step, 0, result_of(NAN, NAN, NAN), BATCHES)
        watched.follow(step + 1, 0, result_of(*GOOD), BATCHES)
    watched.settle()
    assert len(said) == 4


@pytest.mark.parametrize(
    ("numbers", "what"),
    [
        ((NAN, 0.5, INF), "the loss is not finite in micro-batches of e2d3, e2d12r5:"),
        ((NAN, NAN, NAN), "the loss is not finite in micro-batches of e2d1, e2d3, e2d7, e2d12r5:"),
        ((INF, 0.5, 0.5), "all losses are finite but not the gradient of e2d1, e2d3, e2d7, e2d12r5:"),
    ],
)
def test_the_message_names_the_last_step_and_the_samples_of_its_nonfinite_micro_batches(watched, numbers, what):
    replaced = Replaced(draw=12, shard=0, sample=4, replacement=5, reason=0)
    watched.follow(4, 2, result_of(NAN, NAN, NAN), BATCHES)
    watched.follow(5, 2, result_of(*numbers), [batch_of(7, 1), batch_of(3, 12, replaced=(replaced,))])
    expected = f"not finite in 2 steps in a row, up to step 5, where {what} lower optim.lr, use --precision fp32"
    with pytest.raises(UserError, match=f"^loss or gradient {re.escape(expected)}"):
        watched.settle()


def test_the_message_names_only_some_of_many_samples(watched):
    for step in (1, 2):
        watched.follow(step, 0, result_of(NAN, NAN), [batch_of(*range(16))])
    with pytest.raises(UserError, match="micro-batches of e0d0, e0d1, e0d2, e0d3, e0d4 and 11 more: lower"):
        watched.settle()


@pytest.fixture
def read(tiny_config):
    """(manifest, plan, store) of the tiny shards' training split."""
    manifest = load_manifest(Path(tiny_config.data.shards))
    plan = training_plan(tiny_config.data, manifest, tiny_config.seed)
    return manifest, plan, open_store(tiny_config.data, manifest, "train")


def test_keys_are_those_of_the_samples_that_the_loader_reads(tiny_config, read):
    manifest, plan, store = read
    replacing = Replacing(store, reader(store, manifest.image["short_side"], None), plan.seed, replace=False)
    source = TrainingSource(replacing, plan, range(plan.num_lanes), 0)
    samples = [sample for lane in range(plan.num_lanes) for sample in source.micro_batch(1, 2, lane)]
    draws = [(sample["sample_id"], NOT_REPLACED) for sample in samples]
    assert len(draws) == plan.global_batch
    assert keys_of(tiny_config.data, manifest, plan, 1, draws) == [sample["__key__"] for sample in samples]


def test_the_key_of_a_replaced_sample_is_that_of_its_replacement(tiny_config, read):
    manifest, plan, store = read
    shard = int(plan.locate(0, np.array([9]))[0][0])
    expected = [store.read(shard, other)["__key__"] for other in (2, 3)]
    assert keys_of(tiny_config.data, manifest, plan, 0, [(9, 2), (9, 3)]) == expected


@pytest.fixture
def run(tiny_config, tmp_path):
    """run(name, **train settings) -> the run folder."""

    def start(name, **changes):
        changes = {"max_steps": 6, "eval_every": 6, "mixup_alpha": 0.3, "mixup_from_epoch": 1} | changes
        settings = dataclasses.replace(tiny_config.train, **changes)
        config = dataclasses.replace(tiny_config, train=settings, out=str(tmp_path / name))
        train(config, StopRequest(0))
        return tmp_path / name

    return start


def test_checking_later_does_not_change_the_training(run):
    seldom, always = run("seldom", log_every=100), run("always", log_every=1)
    assert losses(seldom) == {6: losses(always)[6]}
    for name in ("model", "optimizer"):
        file = f"checkpoints/step-00000006/{name}.safetensors"
        late, early = load_file(seldom / file), load_file(always / file)
        assert late.keys() == early.keys()
        assert all(late[key].equal(early[key]) for key in late)


@pytest.mark.parametrize(("freeze_epochs", "built"), [(0, ["unfrozen"]), (1, ["frozen", "unfrozen"]), (9, ["frozen"])])
def test_the_wrapper_is_built_once_and_again_when_encoders_are_unfrozen(run, monkeypatch, freeze_epochs, built):
    prepare, calls = DataParallel.prepare, []

    def counted(backend):
        calls.append("unfrozen" if backend.module.image.features.conv0.weight.requires_grad else "frozen")
        prepare(backend)

    monkeypatch.setattr(DataParallel, "prepare", counted)
    run("run", freeze_epochs=freeze_epochs)
    assert calls == built
