"""One rank of benchmarks.pretrain: it measures steps of the runs pretrain and enhanced in turns, under torchrun.

    torchrun --nproc-per-node W -m benchmarks.pretrain.ranks OUT.json OPTIONS

Both networks share their encoders, but have optimizers of their own. Rank 0 writes seconds and bytes. Times are taken
between two barriers, so they are those of the slowest rank.
"""

import dataclasses
import sys
from argparse import Namespace
from functools import partial

from benchmarks.exact_sums.ranks import Step, measure
from benchmarks.full_size import CLASSES, bert_folder, build, configured, synthetic_batches
from cxr_dist.config.named import named_run
from cxr_dist.config.run import Config
from cxr_dist.distributed.backend import new_backend
from cxr_dist.distributed.world import World, lanes_of
from cxr_dist.model.classifier import Encoders
from cxr_dist.model.contrastive import build_contrastive
from cxr_dist.train.assembly import new_loss, new_optimizer, new_step


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


if __name__ == "__main__":
    measure(steps, *sys.argv[1:])
