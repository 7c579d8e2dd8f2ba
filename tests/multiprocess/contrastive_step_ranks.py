"""Compare steps of contrastive pretraining with plain torch, which has the whole global batch in one graph.

    forked_ranks.py N contrastive_step_ranks.py FOLDER CASE CASE …

A case is {"parallel": …, "precision": …, "lanes": lanes a rank, and options}. Every rank computes the reference: the
embeddings of all lanes in one graph, the formula of the loss, and autograd. The networks have BatchNorm and dropout;
their encoders are frozen in the first step; and some reports are the same.
"""

import copy
import dataclasses
import gc
import json
import math
import sys

import torch
from torch import nn
from torch.nn import functional

from cxr_dist.config.named import named_run
from cxr_dist.data.batch import Batch
from cxr_dist.data.random import hash64
from cxr_dist.distributed.backend import new_backend, start, stop
from cxr_dist.distributed.reduce import sum_over_ranks
from cxr_dist.distributed.world import World, lanes_of
from cxr_dist.model.contrastive import Contrastive, build_contrastive
from cxr_dist.train.assembly import new_loss
from cxr_dist.train.contrastive_step import ContrastiveStep
from cxr_dist.train.step import DROPOUT

GLOBAL, STEPS, THAW = 16, 3, 1
LOSSES_AGREE = {"fp64": 1e-9, "fp32": 1e-4, "bf16": 2e-2}
WEIGHTS_AGREE = {"fp64": 1e-9, "fp32": 5e-4, "bf16": math.inf}  # Adam turns rounding errors into a part of its steps


def new_optimizer(groups):
    """With Adam's usual eps, rounding errors of small gradients would be steps of full size."""
    return torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.1, eps=1e-3)


def config_of(world, parallel, precision, lanes, **options):
    run = named_run("demo-pretrain")
    size = GLOBAL // (lanes * world.world_size)
    return dataclasses.replace(
        run,
        parallel=parallel,
        precision=precision,
        data=dataclasses.replace(run.data, global_batch=GLOBAL, micro_batch=size, image_size=64),
        # ZeRO lays out convolutions in another order in memory, in which torch draws other dropout masks.
        model=dataclasses.replace(run.model, image_dropout=0.1 if parallel == "ddp" else 0.0, fusion_dim=16),
        pretrain=dataclasses.replace(run.pretrain, same_label=bool(options.get("same_label"))),
        optim=dataclasses.replace(run.optim, clip_norm=0.5, lr=1e-3),
        exact_sums=bool(options.get("exact_sums")),
    )


def batch_of(config, step, lane):
    size = config.data.micro_batch
    random = torch.Generator().manual_seed(1000 * step + lane)
    mask = (torch.arange(16) < torch.randint(3, 16, (size, 1), generator=random)).long()
    number = torch.arange(lane * size, (lane + 1) * size)
    ids = number % 11 + 1
    ids[number == 5] = 0  # a sample without a report
    return Batch(
        images=torch.randint(256, (size, 1, 64, 64), generator=random, dtype=torch.uint8),
        tokens=torch.randint(5, 600, (size, 16), generator=random) * mask,
        attention_mask=mask,
        labels=(number % 3)[:, None],
        groups=torch.zeros(size, dtype=torch.int64),
        sample_ids=number,
        report_ids=ids[:, None].expand(-1, 2),
    )


class Plain:
    """The reference: one model, one optimizer, and one graph for the whole global batch."""

    def __init__(self, config, model):
        self.config, self.model = config, copy.deepcopy(model)
        self.optimizer = new_optimizer([{"params": list(self.model.parameters())}])
        self.momenta = {m: m.momentum for m in self.model.modules() if isinstance(m, nn.BatchNorm2d)}

    def step(self, step, prepared):
        rows, statistics, before = [], [], copy.deepcopy(dict(self.model.named_buffers()))
        batches = [batch_of(self.config, step, lane) for lane in range(self.config.data.num_lanes)]
        for layer in self.momenta:
            layer.momentum = 1.0
        for lane, batch in enumerate(batches):
            inputs = prepared(step, 0, lane, batch).inputs
            torch.manual_seed(int(hash64(DROPOUT, self.config.seed, step, lane)) >> 1)
            with self.config.autocast("cpu"):
                rows.append(self.model(*inputs))
            statistics.append(copy.deepcopy(dict(self.model.named_buffers())))
        loss = self.loss(torch.cat(rows), batches)
        loss.backward()
        nn.utils.clip_grad_norm_(
            [p for p in self.model.parameters() if p.grad is not None], self.config.optim.clip_norm
        )
        self.optimizer.param_groups[0]["lr"] = self.config.optim.lr
        self.optimizer.step()
        self.optimizer.zero_grad()
        for name, buffer in self.model.named_buffers():
            if buffer.is_floating_point() and "running" in name:
                mean = torch.stack([each[name] for each in statistics]).mean(0)
                trained = self.model.get_submodule(name.rpartition(".")[0]).training
                buffer.copy_(torch.lerp(before[name], mean, 0.1) if trained else before[name])
        return float(loss.detach())

    def loss(self, rows, batches):
        ids = torch.cat([batch.report_ids[:, 0] for batch in batches])
        labels = torch.cat([batch.labels[:, 0] for batch in batches])
        same, present = ids[:, None] == ids, ids != 0
        if self.config.pretrain.same_label:
            same |= labels[:, None] == labels
        same |= ~present | ~present[:, None]
        scores = rows[:, -1].mean().exp() * rows[:, :16] @ rows[:, 16:-1].T
        scores = scores.masked_fill(same & ~torch.eye(len(ids), dtype=torch.bool), -math.inf)
        own = torch.arange(len(ids))
        both = (functional.cross_entropy(each, own, reduction="none") for each in (scores, scores.T))
        return (sum(both) / 2)[present].mean()


def check(folder, world, **case):
    config = config_of(world, **case)
    torch.manual_seed(3)
    model = build_contrastive(config, folder).to(torch.float64 if config.precision == "fp64" else torch.float32)
    assert isinstance(model, Contrastive)
    plain = Plain(config, model)
    backend = new_backend(config, world, model, new_optimizer)
    backend.learning_rate = config.optim.lr
    lanes = lanes_of(world, config.data.num_lanes, exact=config.exact_sums)
    step_of = ContrastiveStep(config, backend, new_loss(config, "multiclass", None), 3, lanes)
    for step in range(STEPS):
        if step in (0, THAW):
            for each in (plain.model, backend.module):
                each.train()
                each.set_encoders_frozen(step < THAW)
            backend.prepare()
        result = step_of(step, 0, [batch_of(config, step, lane) for lane in lanes], stop=False)
        expected = plain.step(step, step_of.prepared)
        loss = float(sum_over_ranks(result.loss.clone()))
        assert abs(loss - expected) <= LOSSES_AGREE[config.precision] * abs(expected), (step, loss, expected)
        assert int(result.values["masked_pairs"]) == (36 if config.pretrain.same_label else 5)
    state = plain.model.state_dict()
    found = backend.model_tensors()
    for name, value in found.items() if world.is_main else ():
        if "num_batches_tracked" in name:
            assert int(value) == STEPS - THAW, "BatchNorm counts a step once"
        else:
            worst, scale = float((value - state[name]).abs().max()), max(1.0, float(state[name].abs().max()))
            assert worst <= WEIGHTS_AGREE[config.precision] * scale, (name, worst)


def main(folder, *cases):
    world = World.from_environment()
    start(world, timeout_minutes=5)
    for case in cases:
        print(f"case {case}", flush=True)  # the last one printed is the one that failed
        check(folder, world, **json.loads(case))
        print("agrees", flush=True)
        gc.collect()
    stop()


if __name__ == "__main__":
    from pathlib import Path

    main(Path(sys.argv[1]), *sys.argv[2:])
