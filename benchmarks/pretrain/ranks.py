"""One rank of benchmarks.pretrain: it measures steps of the runs pretrain and enhanced in turns, under torchrun.

    torchrun --nproc-per-node W -m benchmarks.pretrain.ranks OUT.json OPTIONS

Both networks share their encoders, but have optimizers of their own. Rank 0 writes seconds and bytes. Times are taken
between two barriers, so they are those of the slowest rank.
"""

import dataclasses
import json
import sys
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarks.exact_sums.ranks import seconds
from benchmarks.full_size import CLASSES, bert_folder, build, configured, synthetic_batches
from benchmarks.harness import in_turns
from benchmarks.scaling.collectives import CountCollectives
from cxr_dist.config.named import named_run
from cxr_dist.config.run import Config
from cxr_dist.distributed.backend import new_backend, start, stop
from cxr_dist.distributed.world import World, lanes_of
from cxr_dist.model.classifier import Encoders
from cxr_dist.model.contrastive import build_contrastive
from cxr_dist.train.assembly import new_loss, new_optimizer, new_step

Step = Callable[[], object]


def steps(options: Namespace, world: World) -> dict[str, Step]:
    """A step of each network on the same batches."""
    plain = configured(options.micro_batch, options.lanes)
    plain = dataclasses.replace(plain, model=dataclasses.replace(plain.model, gradient_checkpointing="off"))
    model = dataclasses.replace(named_run("pretrain").model, gradient_checkpointing="off")
    pretrain = dataclasses.replace(plain, run="pretrain", model=model)
    classifier = build(world.device)
    with bert_folder() as folder:
        contrastive = build_contrastive(pretrain, folder).to(world.device)
    contrastive.image, contrastive.text = classifier.image, classifier.text
    batches = synthetic_batches(options.micro_batch, options.lanes // world.world_size, world.device)
    networks: dict[str, tuple[Config, Encoders]] = {"plain": (plain, classifier), "pretrain": (pretrain, contrastive)}
    ways: dict[str, Step] = {}
    for name, (config, network) in networks.items():
        backend = new_backend(config, world, network.train(), new_optimizer(config))
        backend.prepare()
        lanes = lanes_of(world, config.data.num_lanes)
        step = new_step(config, backend, new_loss(config, "multiclass", None), CLASSES, lanes)
        ways[name] = partial(step, 0, 0, batches, False)
    return ways


def main(out: str, given: str) -> None:
    """Measure, and write the result of rank 0."""
    options, world = Namespace(**json.loads(given)), World.from_environment()
    start(world, timeout_minutes=10)
    torch.set_num_threads(1)
    ways, sent = steps(options, world), {}
    for name, step in ways.items():
        with CountCollectives() as count:  # in the step that also warms up
            step()
        sent[name] = sum(each.bytes_sent(world.world_size) for each in count.found)
    clocked = {name: partial(seconds, step, world.device) for name, step in ways.items()}
    found = {"seconds": in_turns(clocked, options.turns, warm_up=0), "bytes_sent": sent}
    if world.is_main:
        Path(out).write_text(json.dumps(found))
    stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
