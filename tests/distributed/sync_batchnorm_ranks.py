"""Compare BatchNorm over several ranks with plain BatchNorm over their concatenated batches.

First the layer in a small float64 network with gradient checkpointing and two micro-batches per step; then the
engines with the option, compared with each other.
"""

import copy
import dataclasses

import torch
from engine_ranks import LANES, Network, assert_close, engine_step, network, new_optimizer
from torch import nn
from torch.utils.checkpoint import checkpoint

from cxr_dist.config.named import named_run
from cxr_dist.distributed.backend import new_backend, start, stop
from cxr_dist.distributed.reduce import sum_over_ranks
from cxr_dist.distributed.sync_batchnorm import SyncBatchNorm, synchronise_batchnorm
from cxr_dist.distributed.world import World
from cxr_dist.train.batchnorm import LaneStatistics

ROUNDS, SAMPLES = 2, 3


class Images(nn.Module):
    """Convolutions with BatchNorm, of which the second pair is recomputed in the backward pass."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5), nn.ReLU())
        self.head = nn.Linear(5, 2)

    def forward(self, images):
        features = checkpoint(self.block, self.stem(images), use_reentrant=False)
        return self.head(features.mean((2, 3)))


def step(model, batches, num_lanes):
    """Return outputs and input gradients of a step's micro-batches; running statistics are updated once."""
    statistics, found = LaneStatistics(model, num_lanes), []
    statistics.start()
    for images in batches:
        images = images.clone().requires_grad_()
        logits = model(images)
        logits.square().sum().backward()
        statistics.add()
        found += [logits.detach(), images.grad]
    statistics.finish(keep=torch.tensor(True))
    return found


def check_layer(world):
    torch.manual_seed(0)
    plain = Images().double()
    ours, size = copy.deepcopy(plain), world.world_size
    names = list(ours.state_dict())
    synchronise_batchnorm(ours, size)
    assert list(ours.state_dict()) == names
    assert sum(isinstance(layer, SyncBatchNorm) for layer in ours.modules()) == 2
    # Ranks differ in mean and spread, so that the statistics of a single rank would be wrong.
    whole = [torch.randn(size, SAMPLES, 1, 9, 9).double() * scale for scale in (1, 30)]
    whole = [images * torch.arange(1, size + 1).view(-1, 1, 1, 1, 1) + 100 for images in whole]
    assert len(whole) == ROUNDS
    # Every rank also contributes the plain layer's statistics to the sum over ranks.
    expected = step(plain, [images.flatten(0, 1) for images in whole], ROUNDS * size)
    found = step(ours, [images[world.rank] for images in whole], ROUNDS * size)
    for mine, both in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, both.unflatten(0, (size, SAMPLES))[world.rank])
    for (name, parameter), reference in zip(ours.named_parameters(), plain.parameters(), strict=True):
        gradient = sum_over_ranks(parameter.grad.clone())
        torch.testing.assert_close(gradient, reference.grad, msg=lambda text, name=name: f"{name}: {text}")
    torch.testing.assert_close(ours.state_dict(), plain.state_dict())
    check_without_ranks(world, ours, plain, whole[0][0])


def check_without_ranks(world, ours, plain, images):
    """In eval mode ranks exchange nothing: later ranks call more often. Inputs in bf16 keep their type."""
    ours.eval(), plain.eval()
    for _ in range(1 + world.rank):
        torch.testing.assert_close(ours(images), plain(images))
    with torch.autocast("cpu", torch.bfloat16):
        assert ours.train().float().stem(images.float()).dtype == torch.bfloat16


def check_engines(world):
    """DDP and ZeRO 3 have the same losses with the option, and others without it."""
    curves = {
        (parallel, sync): curve(world, parallel, sync)
        for parallel, sync in (("ddp", True), ("zero3", True), ("ddp", False))
    }
    synced, plain = curves["ddp", True], curves["ddp", False]
    assert_close(curves["zero3", True], synced, {"rel": 1e-5, "abs": 1e-6})
    assert abs(synced[0] - plain[0]) > 1e-4


def curve(world, parallel, sync):
    demo = named_run("demo")
    config = dataclasses.replace(demo, parallel=parallel, model=dataclasses.replace(demo.model, sync_batchnorm=sync))
    backend = new_backend(config, world, network(), new_optimizer)
    assert isinstance(backend.module, Network)
    assert isinstance(backend.module.encoder[1], SyncBatchNorm) == sync
    losses = []
    for number in range(4):
        if number in (0, 2):  # an encoder that is unfrozen
            backend.module.set_frozen(number == 0)
            backend.prepare()
        losses.append(engine_step(backend, number)[0])
    return losses[2:]


if __name__ == "__main__":
    here = World.from_environment()
    assert LANES % here.world_size == 0
    start(here, timeout_minutes=5)
    check_layer(here)
    check_engines(here)
    stop()
    print("agrees", flush=True)
