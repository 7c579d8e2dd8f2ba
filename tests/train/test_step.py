"""The training step does not wait for the device, skips updates that are not finite, and feeds what it should."""

import dataclasses
import itertools
import math
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cxr_dist.config.named import named_run
from cxr_dist.data.batch import Batch
from cxr_dist.data.transfer import HostCopy, to_device
from cxr_dist.distributed.backend import new_backend
from cxr_dist.distributed.world import World
from cxr_dist.format.manifest import load_manifest
from cxr_dist.model.losses import ClassificationLoss
from cxr_dist.run.preempt import StopRequest
from cxr_dist.train.assembly import new_optimizer, parts_of, prepare_run_folder
from cxr_dist.train.loop import TrainingRun

CPU = torch.device("cpu")


def parts_for(config):
    """The parts of a run that is ready for its first step."""
    manifest = load_manifest(Path(config.data.shards))
    prepare_run_folder(config, manifest, World())
    parts = parts_of(config, manifest, World())
    parts.model.train()
    parts.backend.prepare()
    return parts


def batches_of(parts, stream):
    return [next(stream) for _ in parts.step.lanes]


def everything(backend):
    tensors = backend.model_tensors() | backend.optimizer_tensors()
    return {name: value.clone() for name, value in tensors.items()}


def assert_same(tensors, expected):
    assert tensors.keys() == expected.keys()
    assert not [name for name in tensors if not torch.equal(tensors[name], expected[name])]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["adam", "adamw"])
@pytest.mark.parametrize("clip_norm", [0.0, 0.1])
def test_a_skipped_update_changes_no_state(name, dtype, clip_norm):
    demo = named_run("demo")
    config = dataclasses.replace(demo, optim=dataclasses.replace(demo.optim, name=name, clip_norm=clip_norm))
    twins = []
    for disturbed in (False, True):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(37, 11), torch.nn.Linear(11, 3)).to(dtype)
        twins.append(new_backend(config, World(), model, new_optimizer(config)))
        twins[-1].prepare()
        for step in range(4):
            torch.manual_seed(step)
            inputs = torch.randn(8, 37, dtype=dtype)
            if disturbed:
                for wrong in (math.nan, math.inf):
                    twins[-1].backward(twins[-1].module(inputs).sum() * wrong)
                    assert not twins[-1].update().isfinite()
            twins[-1].backward(twins[-1].module(inputs).square().sum())
            assert twins[-1].update().isfinite()
    assert_same(everything(twins[1]), everything(twins[0]))
    assert float(everything(twins[1])["step/0.weight"]) == 4


class InfiniteLoss(ClassificationLoss):
    """Infinite in micro-batches with a sample of class 0, with a finite gradient."""

    def sums(self, logits, targets, known):
        return super().sums(logits, targets, known) + torch.where(targets[:, 0].sum() > 0, math.inf, 0.0)


def test_an_infinite_loss_with_a_finite_gradient_skips_the_update(tiny_config):
    parts = parts_for(tiny_config)
    step, good = parts.step, parts.step.loss
    batches = batches_of(parts, parts.open_stream(0))
    finite = [not (batch.labels == 0).any() for batch in batches]
    assert set(finite) == {True, False}
    before = everything(parts.backend)
    step.loss = InfiniteLoss(**{f.name: getattr(good, f.name) for f in dataclasses.fields(good)})
    result = step(0, 0, batches, False)
    assert not math.isfinite(result.gradient_norm)
    assert result.lanes_finite == finite
    # Adam has created its moments, which are zero. The test above covers moments of earlier steps.
    assert not any(value.any() for value in parts.backend.optimizer_tensors().values())
    assert_same(everything(parts.backend) | before, everything(parts.backend))
    step.loss = good
    result = step(0, 0, batches, False)
    assert math.isfinite(result.gradient_norm)
    assert result.lanes_finite == [True] * len(batches)
    assert not torch.equal(before["head.first.weight"], parts.backend.model_tensors()["head.first.weight"])


WAITS = {  # operations for which the host waits on CUDA
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.is_nonzero.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten.equal.default,
}


class NothingIsRead(TorchDispatchMode):
    """Fails if the host needs the result of an operation."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func not in WAITS, func
        indices = args[1] if func is torch.ops.aten.index.Tensor else ()
        assert all(index is None or index.dtype != torch.bool for index in indices), "a boolean mask as index"
        return func(*args, **(kwargs or {}))


def test_reading_a_value_on_the_host_is_detected():
    values = torch.arange(3.0)
    for reads in (lambda: float(values.sum()), lambda: bool(values.all()), lambda: values[values > 1]):
        with NothingIsRead(), pytest.raises(AssertionError):
            reads()


@pytest.fixture
def varied_config(tiny_config):
    """A run with mixup, class weights, averaged weights, gradient checkpointing and packed reports."""
    train = dataclasses.replace(tiny_config.train, mixup_alpha=0.2, mixup_from_epoch=1)
    return dataclasses.replace(
        tiny_config,
        data=dataclasses.replace(tiny_config.data, text_sections=("indication",)),  # shorter than the maximal length
        train=train,
        loss=dataclasses.replace(tiny_config.loss, name="focal", class_weights="balanced"),
        optim=dataclasses.replace(tiny_config.optim, ema_decay=0.9),
        model=dataclasses.replace(tiny_config.model, gradient_checkpointing="text"),
    )


def loop_over(parts, batches):
    """A function that takes one step of the training loop, after two steps that create kernels and moments."""
    run, stream = TrainingRun(parts, StopRequest(0)), iter(batches)
    for _ in range(2):
        run.one_step(stream)
    return lambda: run.one_step(stream)


@pytest.mark.parametrize("fusion", ["tokens", "pooled"])
def test_no_operation_of_a_step_needs_a_value_on_the_host(varied_config, fusion):
    model = dataclasses.replace(varied_config.model, fusion=fusion)
    parts = parts_for(dataclasses.replace(varied_config, model=model))
    batches = list(itertools.islice(parts.open_stream(0), 4 * len(parts.step.lanes)))
    full = torch.ones_like(batches[-1].tokens)
    batches[-1] = dataclasses.replace(batches[-1], attention_mask=full, token_positions=None)
    assert any(len(b.token_positions) < b.tokens.numel() for b in batches[:-1])
    step = loop_over(parts, batches)
    with NothingIsRead():
        step()
        step()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_steps_on_a_gpu_never_synchronise(varied_config, precision):
    parts = parts_for(dataclasses.replace(varied_config, precision=precision))
    batches = list(itertools.islice(parts.open_stream(0), 6 * len(parts.step.lanes)))
    assert all(batch.images.is_pinned() for batch in batches)
    step = loop_over(parts, batches)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        results = [step() for _ in range(4)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(math.isfinite(result.gradient_norm) for result in results)


def test_a_copy_to_the_host_has_the_values_at_the_time_of_the_copy():
    for device in [CPU, torch.device("cuda", 0)][: 1 + torch.cuda.is_available()]:
        values = to_device(torch.tensor([1.0, 2.0]), device)
        copy = HostCopy(values)
        values.zero_()
        assert copy.read() == [1.0, 2.0]
        assert copy.read() == [1.0, 2.0]


@pytest.fixture
def plain_config(tiny_config):
    """A run without class weights, mixup and changes of contrast."""
    loss = dataclasses.replace(tiny_config.loss, class_weights="none")
    train = dataclasses.replace(tiny_config.train, mixup_alpha=0.0)
    data = dataclasses.replace(tiny_config.data, brightness=0.2, contrast=0.0)
    return dataclasses.replace(tiny_config, data=data, loss=loss, train=train)


def test_brightness_is_a_change_of_the_grey_level_that_differs_between_epochs(plain_config):
    step = parts_for(plain_config).step
    black = Batch(
        images=torch.zeros(200, 1, 2, 2, dtype=torch.uint8),
        tokens=None,
        attention_mask=None,
        labels=torch.zeros(200, 1, dtype=torch.int64),
        groups=torch.zeros(200, dtype=torch.int64),
        sample_ids=torch.arange(200),
    )

    def grey_levels(number, epoch, lane):
        """From 0, black, to 1, white."""
        images = step.prepared(number, epoch, lane, black).inputs.images
        return (images * step.levels.deviation + step.levels.mean)[:, 0, 0, 0]

    first = grey_levels(0, 0, 0)
    # The extremes of 200 uniform numbers: outside these bounds with a probability below 1e-4.
    assert -0.2 <= first.min() < -0.18
    assert 0.18 < first.max() <= 0.2
    assert torch.equal(grey_levels(3, 0, 1), first)  # whichever step and lane a draw is in
    assert (grey_levels(0, 1, 0) - first).abs().mean() > 0.05


def test_dropout_differs_between_steps_lanes_and_seeds_and_repeats_for_the_same(plain_config):
    parts = parts_for(plain_config)
    step, stream = parts.step, parts.open_stream(0)
    batch = step.prepared(0, 0, 0, next(stream))
    step.statistics.start()

    def loss(number, lane):
        return float(step.lane(number, lane, batch, torch.tensor(1.0)))

    different = [loss(0, 0), loss(1, 0), loss(0, 1)]
    assert loss(0, 0) == different[0]
    step.config = dataclasses.replace(plain_config, seed=plain_config.seed + 1)
    assert len({*different, loss(0, 0)}) == 4


def test_a_step_without_any_known_label_has_loss_and_gradient_zero(plain_config):
    parts = parts_for(plain_config)
    batches = batches_of(parts, parts.open_stream(0))
    unknown = [dataclasses.replace(batch, labels=torch.full_like(batch.labels, -1)) for batch in batches]
    result = parts.step(0, 0, unknown, False)
    assert float(result.loss) == result.gradient_norm == 0


def test_the_loss_is_divided_by_the_weights_however_small_their_sum(plain_config):
    losses = []
    for scale in (1.0, 1e-6):
        parts = parts_for(plain_config)
        parts.step.loss = dataclasses.replace(parts.step.loss, class_weights=torch.full((5,), scale))
        losses.append(float(parts.step(0, 0, batches_of(parts, parts.open_stream(0)), False).loss))
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_gradients_are_exchanged_after_the_last_lane_of_a_step(plain_config, monkeypatch):
    parts, asked = parts_for(plain_config), []
    accumulate = parts.backend.accumulate

    def noted(*, is_last):
        asked.append(is_last)
        return accumulate(is_last=is_last)

    monkeypatch.setattr(parts.backend, "accumulate", noted)
    parts.step(0, 0, batches_of(parts, parts.open_stream(0)), stop=False)
    assert asked == [False, False, False, True]
