"""Compare steps of the engines with the same steps of plain torch on several ranks, with odd tensor sizes.

    forked_ranks.py N engine_ranks.py FOLDER CASE CASE …     a case: {"parallel": …, "precision": …, and options}

Every rank computes the reference over all lanes. The steps include clipping, an encoder that is unfrozen, a NaN on
the last rank only, validation with a different number of batches per rank, averaged weights in some cases, and a
checkpoint that is loaded by DDP and then by a new engine of the first type.
"""

import dataclasses
import gc
import json
import math
import sys
from pathlib import Path

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cxr_dist.config.named import named_run
from cxr_dist.distributed.backend import new_backend, start, stop
from cxr_dist.distributed.reduce import sum_over_ranks, wait_for_all
from cxr_dist.distributed.world import World
from cxr_dist.run import checkpoint
from cxr_dist.run.checkpoint import Progress
from cxr_dist.train.batchnorm import LaneStatistics

LANES, SAMPLES, RATE, CLIP = 4, 8, 0.05, 0.5
THAW, SAVE, BROKEN, STEPS = 2, 4, 5, 7  # the steps before which these things happen
TOLERANCE = {"fp32": {"rel": 1e-5, "abs": 1e-6}, "bf16": {"rel": 2e-2, "abs": 2e-3}}


class Network(nn.Module):
    """A network without bias before BatchNorm, whose gradient would be a rounding error that Adam amplifies."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(6, 7, bias=False), nn.BatchNorm1d(7), nn.ReLU())
        self.head = nn.Linear(7, 5)

    def forward(self, inputs):
        return self.head(nn.functional.dropout(self.encoder(inputs), 0.2, self.training))

    def set_frozen(self, frozen):
        self.encoder.requires_grad_(not frozen)
        self.train()
        self.encoder.train(not frozen)


def network():
    torch.manual_seed(1)
    return Network()


def new_optimizer(groups):
    return torch.optim.AdamW(groups, lr=RATE, weight_decay=0.1)


def lane_loss(forward, step, lane, *, broken=False):
    generator = torch.Generator().manual_seed(100 * step + lane)
    inputs = torch.randn(SAMPLES, 6, generator=generator)
    targets = torch.randint(5, (SAMPLES,), generator=generator)
    torch.manual_seed(1000 * step + lane)
    logits = forward(inputs * math.nan if broken else inputs).float()
    return nn.functional.cross_entropy(logits, targets, reduction="sum") / (SAMPLES * LANES)


class Plain:
    """The reference: one model and one optimizer, with all lanes one after another."""

    def __init__(self, world, precision, decay):
        self.model, self.precision = network(), precision
        self.optimizer = new_optimizer(self.model.parameters())
        self.average = None
        if decay:
            self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
        if self.average:
            self.average.update_parameters(self.model)  # the first one copies
        # Every rank contributes all lanes to the sum over ranks.
        self.statistics = LaneStatistics(self.model, LANES * world.world_size)

    def step(self, step):
        losses = []
        self.statistics.start()
        for lane in range(LANES):
            with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16"):
                losses.append(lane_loss(self.model, step, lane))
            losses[-1].backward()
            self.statistics.add()
        self.statistics.finish(keep=torch.tensor(True))
        norm = nn.utils.clip_grad_norm_([p for p in self.model.parameters() if p.grad is not None], CLIP)
        self.optimizer.param_groups[0]["lr"] = RATE / (step + 1)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average:
            self.average.update_parameters(self.model)
        return [float(sum(losses).detach()), float(norm)]

    @property
    def evaluated(self):
        return self.average.module if self.average else self.model


def engine_step(backend, step, *, broken=False):
    world, total = backend.world, torch.zeros(())
    lanes, statistics = range(world.rank, LANES, world.world_size), LaneStatistics(backend.module, LANES)
    backend.learning_rate = RATE / (step + 1)
    statistics.start()
    for lane in lanes:
        with backend.accumulate(is_last=lane == lanes[-1]):
            loss = lane_loss(backend.forward, step, lane, broken=broken and lane == LANES - 1)
            backend.backward(loss)
        statistics.add()
        total += loss.detach()
    norm = backend.update()
    statistics.finish(keep=norm.isfinite())
    backend.average(norm)
    return [float(sum_over_ranks(total)), float(norm)]


def check(folder, world, parallel, precision, deepspeed="", decay=0.0):
    demo, tolerance, engines = named_run("demo"), TOLERANCE[precision], count_of("DeepSpeedEngine")
    optim = dataclasses.replace(demo.optim, clip_norm=CLIP, ema_decay=decay)
    config = dataclasses.replace(demo, optim=optim, parallel=parallel, precision=precision, deepspeed=deepspeed)
    plain = Plain(world, precision, decay)
    backend = new_backend(config, world, network(), new_optimizer)
    for step in range(STEPS):
        if step in (0, THAW):
            plain.model.set_frozen(step < THAW)
            backend.module.set_frozen(step < THAW)
            backend.prepare()
            assert count_of("DeepSpeedEngine") <= engines + 1, (
                "the engine from before the unfreezing is still in memory"
            )
        if step == SAVE:
            backend = through_checkpoints(folder, backend)
        if step == BROKEN:
            check_broken_step(backend, step)
        assert_close(engine_step(backend, step), plain.step(step), tolerance)
        assert_close(*validation_outputs(backend, plain), tolerance)
    model, saved = backend.model_tensors(), backend.optimizer_tensors()
    if world.is_main:
        assert float(saved["step/head.bias"]) == STEPS
        assert float(saved["step/encoder.0.weight"]) == STEPS - THAW
        check_weights(model, saved, plain, tolerance)


def check_weights(model, saved, plain, tolerance):
    """The checkpoint's model is the evaluated one, and its optimizer part has the training weights if they differ."""
    buffers = {name: each for name, each in plain.evaluated.named_buffers() if each.is_floating_point()}
    assert len(buffers) == 2
    for name, expected in [*plain.evaluated.named_parameters(), *buffers.items()]:
        assert_close(model[name].flatten().tolist(), expected.flatten().tolist(), tolerance)
    raw = {name.removeprefix("parameter/"): value for name, value in saved.items() if "parameter/" in name}
    assert raw.keys() == (dict(plain.model.named_parameters()).keys() if plain.average else set())
    for name, value in raw.items():
        expected = plain.model.get_parameter(name)
        assert_close(value.flatten().tolist(), expected.flatten().tolist(), tolerance)
        assert not value.equal(model[name]), "the average moved with the weight"
    assert {f"buffer/{name}" for name in buffers if plain.average} == {
        key for key in saved if key.startswith("buffer/")
    }


def check_broken_step(backend, step):
    """A NaN in the last lane, on the last rank, leaves parameters, buffers and moments of all ranks unchanged."""
    before = copies(backend)
    _, norm = engine_step(backend, step, broken=True)
    assert not math.isfinite(norm)
    assert_equal(before, copies(backend))


def through_checkpoints(folder, backend):
    """Save, load into DDP, save, and load into a new engine of the first type."""
    config = backend.config
    for parallel in ("ddp", config.parallel):
        saved, run_dir = copies(backend), folder / parallel
        state = checkpoint.TrainingState(step=SAVE, progress=Progress(), manifest_sha256="")
        if backend.world.is_main:
            checkpoint.save(run_dir, state, *saved)
        wait_for_all()
        loaded = checkpoint.load(run_dir / "checkpoints" / f"step-{SAVE:08d}")
        settings = "" if parallel == "ddp" else config.deepspeed
        other = dataclasses.replace(config, parallel=parallel, deepspeed=settings)
        backend = new_backend(other, backend.world, network(), new_optimizer)
        backend.restore(loaded.model, loaded.optimizer)
        backend.module.set_frozen(False)
        backend.prepare()
        assert_equal(saved, copies(backend))
    return backend


def copies(backend):
    """Return copies of (model, optimizer) on rank 0."""
    both = backend.model_tensors(), backend.optimizer_tensors()
    return [{name: value.clone() for name, value in part.items()} for part in both if backend.world.is_main]


def count_of(kind):
    gc.collect()
    return sum(type(each).__name__ == kind for each in gc.get_objects())


def validation_outputs(backend, plain):
    """Return outputs of both in eval mode; later ranks call more often, so that a collective inside would hang."""
    frozen, probe = not plain.model.encoder[0].weight.requires_grad, torch.linspace(-1, 1, 12).view(2, 6)
    evaluated = plain.evaluated.eval()
    with backend.whole_model(), torch.no_grad():
        backend.module.eval()
        for _ in range(1 + backend.world.rank):
            found = backend.module.head(backend.module.encoder(probe))
        expected = evaluated.head(evaluated.encoder(probe))
    plain.model.set_frozen(frozen)
    backend.module.set_frozen(frozen)
    return found.flatten().tolist(), expected.flatten().tolist()


def assert_close(found, expected, tolerance):
    for a, b in zip(found, expected, strict=True):
        assert abs(a - b) <= max(tolerance["abs"], tolerance["rel"] * abs(b)), (found, expected)


def assert_equal(before, after):
    for old, new in zip(before, after, strict=True):
        assert old.keys() == new.keys()
        assert not [name for name in new if not torch.equal(old[name], new[name])]


def main(folder, *cases):
    world = World.from_environment()
    start(world, timeout_minutes=5)
    for number, case in enumerate(cases):
        print(f"case {case}", flush=True)  # the last one printed is the one that failed
        check(Path(folder) / str(number), world, **json.loads(case))
        print("agrees", flush=True)
        gc.collect()
    stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
