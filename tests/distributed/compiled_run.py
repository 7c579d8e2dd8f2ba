"""Compare a small compiled run, whose encoder is unfrozen midway, with the same run without compilation on one rank.

forked_ranks.py N compiled_run.py
"""

import dataclasses
import gc

import torch
from torch import nn

from cxr_dist.config.ddp import DdpConfig
from cxr_dist.config.named import named_run
from cxr_dist.distributed.backend import new_backend, start, stop
from cxr_dist.distributed.reduce import sum_over_ranks
from cxr_dist.distributed.world import World, lanes_of

LANES, STEPS, THAW, RATE = 2, 6, 3, 0.1


class Network(nn.Module):
    """A network with the parts that a compiler might change: BatchNorm, dropout, reports of different lengths.

    It fills two of DDP's buckets of 1 MiB, at which the compiler splits the graph.
    """

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2))
        self.words, self.hidden, self.head = nn.Embedding(9, 508), nn.Linear(512, 512), nn.Linear(512, 512)

    def forward(self, images, tokens, mask):
        words = (self.words(tokens) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        film = self.encoder(images).mean((2, 3))
        hidden = self.hidden(nn.functional.dropout(torch.cat([film, words], 1), 0.3, self.training))
        return self.head(nn.functional.dropout(hidden.relu(), 0.3, self.training))


def inputs(step, lane):
    generator, length = torch.Generator().manual_seed(100 * step + lane), 16 * (1 + (step + lane) % 3)
    mask = (torch.arange(length) < torch.tensor([[length], [5], [1], [9]])).long()
    images = torch.randn(4, 1, 8, 8, generator=generator)
    return images, torch.randint(9, (4, length), generator=generator), mask


def trained(world, *, compiled, device=None):
    """Return losses and final parameters, with SGD because Adam amplifies gradients that are only rounding errors."""
    config = dataclasses.replace(named_run("demo"), compile=compiled, ddp=DdpConfig(bucket_cap_mb=1))
    torch.manual_seed(0)
    backend = new_backend(config, world, Network().train().to(device or world.device), torch.optim.SGD)
    backend.learning_rate = RATE
    losses, lanes = [], lanes_of(world, LANES)
    for step in range(STEPS):
        if step in (0, THAW):
            backend.module.encoder.requires_grad_(step == THAW)
            backend.prepare()
        loss = sum(lane_loss(backend, step, lane, is_last=lane == lanes[-1]) for lane in lanes)
        backend.update()
        losses.append((sum_over_ranks(loss) if world.world_size > 1 else loss).item())
    return losses, dict(backend.module.named_parameters())


def lane_loss(backend, step, lane, *, is_last):
    torch.manual_seed(10 * step + lane)
    with backend.accumulate(is_last=is_last):
        logits = backend.forward(*(each.to(backend.device) for each in inputs(step, lane)))
        loss = logits.square().mean()
        backend.backward(loss)
    return loss.detach()


def assert_near(found, expected):
    """Compare the losses and parameters of two runs."""
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=0)
    assert found[1].keys() == expected[1].keys()
    for name, value in expected[1].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-4, atol=1e-5, msg=name)


def main():
    world = World.from_environment()
    start(world, timeout_minutes=5)
    assert_near(trained(world, compiled=True), trained(World(local_rank=world.local_rank), compiled=False))
    print(f"agrees, {torch._dynamo.utils.counters['stats']['unique_graphs']} graphs", flush=True)
    gc.collect()
    stop()


if __name__ == "__main__":
    main()
