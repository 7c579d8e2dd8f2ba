"""`--data.micro-batch auto`: the largest micro-batch that fits the device and keeps the global batch.

The micro-batch fixes the lanes, and with them the run's numbers: it is found once, at the run's first start, and a
resumed run takes the one that its config.yaml has. The trial is the run's own step, made by each rank alone before
the ranks meet, because one that fails in the middle of a collective would leave the others waiting.
"""

import dataclasses
import gc
from collections.abc import Callable
from functools import partial

import torch

from cxr_dist.config.run import Config
from cxr_dist.data.batch import Batch
from cxr_dist.data.text import PAD_MULTIPLE
from cxr_dist.distributed.world import World, lanes_of, micro_batches_for
from cxr_dist.errors import UserError
from cxr_dist.model.classifier import Classifier
from cxr_dist.train.memory.limits import is_out_of_memory, limited
from cxr_dist.train.step import TrainStep

_SHARE = {
    "cuda": 0.85,
    "cpu": 0.5,
}  # of the free memory; messages, fragments and threads, on the host workers too
_STEPS = 2  # in the second one the optimizer's moments are there from the start

NewStep = Callable[[Config, range], TrainStep]
"""The step of a configuration with a number, over these lanes, in a world of one."""


def check_world_size(config: Config, world: World) -> None:
    """Raise UserError where these ranks cannot share the lanes; with `auto` where no micro-batch lets them."""
    if config.data.micro_batch != "auto":
        lanes_of(world, config.data.num_lanes)
    elif config.data.global_batch % world.world_size:
        size = config.data.global_batch
        legal = ", ".join(str(w) for w in range(1, size + 1) if size % w == 0)
        raise UserError(
            f"world size {world.world_size} does not divide data.global_batch {size}, so no micro-batch serves it: "
            f"use {legal} ranks, or change data.global_batch"
        )


def largest_that_fits(
    config: Config,
    world: World,
    device: torch.device,
    num_labels: int,
    new_step: NewStep,
    views: int = 1,
) -> int:
    """Try the candidates on this rank's device, the smallest first, until one does not fit; 0 where none does.

    Only the last trial runs out of memory: on the host, oneDNN may be unable to make anything new afterwards. The ranks
    must not have met. Samples have up to `views` films. ZeRO is tried as plain data parallel, which needs as much
    memory at least; and gradient checkpointing `auto` as `all`.
    """
    auto = config.model.gradient_checkpointing == "auto"
    plain = dataclasses.replace(
        config,
        parallel="ddp",
        deepspeed="",
        model=dataclasses.replace(
            config.model,
            pretrained=False,  # as large as any, and at hand
            gradient_checkpointing="all" if auto else config.model.gradient_checkpointing,
        ),
    )
    found = 0
    for size in reversed(micro_batches_for(config.data.global_batch, world.world_size)):
        trial = with_micro_batch(plain, size)
        lanes = range(min(2, trial.data.num_lanes // world.world_size))  # a second one finds gradients there
        new_batch = partial(largest_batch, trial, num_labels=num_labels, views=views)
        if not _fits(trial, lanes, world, device, new_batch, new_step):
            break
        found = size
    return found


def with_micro_batch(config: Config, size: int | str) -> Config:
    """The configuration with another micro-batch, a number."""
    assert isinstance(size, int)
    return dataclasses.replace(config, data=dataclasses.replace(config.data, micro_batch=size))


def largest_batch(config: Config, size: int, num_labels: int, views: int = 1) -> Batch:
    """A batch of `size` samples as large as the loader makes them: all films, reports at the limit of tokens."""
    data, model = config.data, config.model
    films = tokens = rows = None
    if model.uses_image:
        films = torch.zeros(size * views, 1, data.image_size, data.image_size, dtype=torch.uint8)
        rows = None if views == 1 else torch.arange(size * views).view(size, views)
    if model.uses_text:
        tokens = torch.zeros(size, -(-data.max_tokens // PAD_MULTIPLE) * PAD_MULTIPLE, dtype=torch.int64)
    return Batch(
        images=films,
        view_rows=rows,
        tokens=tokens,
        attention_mask=None if tokens is None else torch.ones_like(tokens),
        labels=torch.zeros(size, num_labels, dtype=torch.int64),
        groups=torch.zeros(size, dtype=torch.int64),
        sample_ids=torch.arange(size),
    )


def _fits(
    config: Config,
    lanes: range,
    world: World,
    device: torch.device,
    new_batch: Callable[[int], Batch],
    new_step: NewStep,
) -> bool:
    try:
        with limited(device, _SHARE[device.type], world.world_size):
            _steps(config, lanes, new_batch, new_step)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return True


def _steps(config: Config, lanes: range, new_batch: Callable[[int], Batch], new_step: NewStep) -> None:
    """Steps of the last epoch, when the encoders have thawed and samples are mixed, and a batch of the validation."""
    epoch = config.train.epochs - 1
    step = new_step(config, lanes)
    model, device = step.backend.module, step.backend.device
    assert isinstance(model, Classifier)
    model.train()
    model.set_encoders_frozen(epoch < config.train.freeze_epochs)
    step.backend.prepare()
    batch = new_batch(config.data.global_batch // config.data.num_lanes)
    for number in range(_STEPS):
        step(number, epoch, [batch] * len(lanes), False)
    model.eval()
    with torch.no_grad():
        item = step.prepared(0, 0, 0, new_batch(config.data.evaluation_batch))
        step.backend.forward(*item.inputs)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
