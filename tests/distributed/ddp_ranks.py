"""Compare gradients under each of DDP's settings with plain DDP and with sums in float64, on several ranks.

    forked_ranks.py N ddp_ranks.py

The gradients take 5 MiB, which is many buckets of 1 MiB and two of 25 MiB.
"""

import dataclasses
import gc

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.scaling.collectives import CountCollectives
from cxr_dist.config.ddp import DdpConfig
from cxr_dist.config.named import named_run
from cxr_dist.distributed.backend import new_backend, start, stop
from cxr_dist.distributed.reduce import sum_over_ranks
from cxr_dist.distributed.world import World

NUM_GRADIENTS = 5 * (512 * 512 + 512) + 512 * 5 + 5
UNIT = 2.0**-7  # relative spacing of bf16 numbers
FLOAT32 = 1e-7  # tolerance for gradients up to 0.1, including their rounding


def network():
    torch.manual_seed(1)
    layers = [layer for _ in range(5) for layer in (nn.Linear(512, 512), nn.Tanh())]
    return nn.Sequential(*layers, nn.Linear(512, 5))


def loss_of(forward, world, step):
    generator = torch.Generator().manual_seed(100 * step + world.rank)
    inputs = torch.randn(16, 512, generator=generator)
    targets = torch.randint(5, (16,), generator=generator)
    return nn.functional.cross_entropy(forward(inputs), targets)


def engine(world, **settings):
    config = dataclasses.replace(named_run("demo"), ddp=DdpConfig(**settings))
    backend = new_backend(config, world, network(), torch.optim.AdamW)
    backend.prepare()
    return backend


def gradients(backend, step):
    """Return the summed gradients of a step without an update."""
    with backend.accumulate(is_last=True):
        backend.backward(loss_of(backend.forward, backend.world, step))
    found = [parameter.grad.clone() for parameter in backend.module.parameters()]
    backend.module.zero_grad()
    return found


def plain_ddp(world, step):
    """Return the gradients of torch's DDP after a first step, in which it builds its buckets."""
    wrapped = DistributedDataParallel(network(), broadcast_buffers=False, gradient_as_bucket_view=True)
    for each in (step - 1, step):
        wrapped.zero_grad()
        (loss_of(wrapped, world, each) * world.world_size).backward()
    return [parameter.grad.clone() for parameter in wrapped.parameters()]


def own(world, step):
    """Return this rank's gradients in float64 before they are summed."""
    alone = network()
    loss_of(alone, world, step).backward()
    return [parameter.grad.double() for parameter in alone.parameters()]


def check_default_is_plain_ddp(world):
    assert all(map(torch.equal, gradients(engine(world), 1), plain_ddp(world, 1)))


def check_a_step_does_not_depend_on_steps_before(world, **settings):
    """Otherwise a resumed run would differ from an uninterrupted one, as the layout orders sums."""
    experienced = engine(world, **settings)
    gradients(experienced, 0)
    assert all(map(torch.equal, gradients(experienced, 1), gradients(engine(world, **settings), 1)))


def check_compressed_gradients_are_near(world):
    """Each rank's gradient is rounded twice and each sum of two once, by half a unit of the sum of magnitudes."""
    found = gradients(engine(world, comm_hook="bf16"), 1)
    exact = gradients(engine(world), 1)
    assert not any(map(torch.equal, found, exact))
    for rounded, part in zip(found, own(world, 1), strict=True):
        total = sum_over_ranks(part.clone())
        bound = (world.world_size + 1) * UNIT / 2 * (1 + UNIT) ** world.world_size
        assert ((rounded - total).abs() <= bound * sum_over_ranks(part.abs()) + FLOAT32).all()


def check_buckets(world):
    """There is one sum over ranks for each bucket, and a compressed one has half the bytes."""
    for hook, size in (("none", 4), ("bf16", 2)):
        for cap, num_buckets in ((1, 5), (25, 2)):
            backend = engine(world, bucket_cap_mb=cap, comm_hook=hook)
            gradients(backend, 0)  # ranks agree on the layout
            with CountCollectives() as sums:
                gradients(backend, 1)
            assert {each.name for each in sums.found} == {"allreduce_"}
            assert len(sums.found) == num_buckets
            assert sum(each.num_bytes for each in sums.found) == size * NUM_GRADIENTS


def main():
    world = World.from_environment()
    start(world, timeout_minutes=5)
    check_default_is_plain_ddp(world)
    for cap in (1, 25):
        for hook in ("none", "bf16"):
            check_a_step_does_not_depend_on_steps_before(world, bucket_cap_mb=cap, comm_hook=hook)
    check_compressed_gradients_are_near(world)
    check_buckets(world)
    print("agrees", flush=True)
    gc.collect()
    stop()


if __name__ == "__main__":
    main()
