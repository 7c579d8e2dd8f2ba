"""Compare gradients with exact_sums with the tree over plain torch's gradients of each lane, bit for bit.

    forked_ranks.py N exact_engine_ranks.py

The network has a convolution in channels_last, whose gradient DDP does not keep in the order of its dimensions, and its
gradients take several buckets.
"""

import dataclasses
import gc

import torch
from torch import nn

from benchmarks.scaling.collectives import CountCollectives
from cxr_dist.config.ddp import DdpConfig
from cxr_dist.config.named import named_run
from cxr_dist.distributed.backend import new_backend, start, stop
from cxr_dist.distributed.reduce import sum_over_ranks
from cxr_dist.distributed.world import World, lanes_of

LANES, STEPS = 8, 2


def network():
    torch.manual_seed(1)
    hidden = [layer for _ in range(3) for layer in (nn.Linear(512, 512), nn.Tanh())]
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), *hidden, nn.Linear(512, 5)]
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def loss_of(forward, step, lane):
    generator = torch.Generator().manual_seed(100 * step + lane)
    images = torch.randn(4, 3, 12, 12, generator=generator)
    return nn.functional.cross_entropy(forward(images), torch.randint(5, (4,), generator=generator))


def tree(values):
    half = len(values) // 2
    return tree(values[:half]) + tree(values[half:]) if half else values[0]


def expected(step):
    """The gradients of a step."""
    lanes = []
    for lane in range(LANES):
        alone = network()
        loss_of(alone, step, lane).backward()
        lanes.append([parameter.grad for parameter in alone.parameters()])
    return [tree(list(of_parameter)) for of_parameter in zip(*lanes, strict=True)]


def main():
    world = World.from_environment()
    start(world, timeout_minutes=5)
    config = dataclasses.replace(named_run("demo"), exact_sums=True, ddp=DdpConfig(bucket_cap_mb=1))
    backend = new_backend(config, world, network(), torch.optim.AdamW)
    lanes = lanes_of(world, LANES, exact=True)
    for wrapped in range(2):  # as after encoders were unfrozen
        backend.prepare()
        for step in range(STEPS):
            for lane in lanes:
                with backend.accumulate(is_last=lane == lanes[-1]):
                    backend.backward(loss_of(backend.forward, step, lane))
            for parameter, gradient in zip(backend.module.parameters(), expected(step), strict=True):
                assert parameter.grad.equal(gradient), (wrapped, step, parameter.shape)
                assert parameter.grad.stride() == parameter.stride()  # which orders the sum of the norm
            backend.module.zero_grad()
    mine = torch.tensor([0.1, 1e8, -1e8, 0.7])[world.rank : world.rank + 1]
    values = torch.tensor([0.1, 1e8, -1e8, 0.7])[: world.world_size]
    with CountCollectives() as count:
        assert sum_over_ranks(mine, as_tree=True).item() == tree(list(values)).item()
    assert sum(each.bytes_sent(world.world_size) for each in count.found) == 4 * (world.world_size.bit_length() - 1)
    print("agrees", flush=True)
    gc.collect()
    stop()


if __name__ == "__main__":
    main()
