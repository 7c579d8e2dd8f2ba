"""`--data.micro-batch auto`: finds the largest micro-batch that fits the device and divides the global batch.

The micro-batch determines the lanes and thus the results of the run, so it is chosen once, when the run first starts,
and a resumed run takes it from config.yaml. Each rank tries the run's own step alone, before the process group is
initialized, because a rank that fails in a collective would leave the others waiting.
"""

import dataclasses
import gc
from collections.abc import Callable
from functools import partial

import torch

from cxr_dist.config.run import Config
from cxr_dist.data.batch import Batch
from cxr_dist.data.text import PAD_MULTIPLE
from cxr_dist.distributed.world import World, lanes_of, legal_world_sizes, micro_batches_for
from cxr_dist.errors import UserError
from cxr_dist.model.classifier import Encoders
from cxr_dist.train.memory.limits import is_out_of_memory, limited
from cxr_dist.train.step import TrainStep

# Share of the free memory. The rest is for communication, fragmentation and threads, and on the CPU for workers.
_SHARE = {"cuda": 0.85, "cpu": 0.5}
_STEPS = 2  # in the second step the optimizer's moments exist from the start

NewStep = Callable[[Config, range], TrainStep]
"""Makes the step of a configuration with a fixed micro-batch, over these lanes, at world size 1."""


def check_world_size(config: Config, world: World) -> None:
    """Raise UserError if the world size does not divide the lanes; with `auto`, if no micro-batch allows that."""
    if config.data.micro_batch != "auto":
        lanes_of(world, config.data.num_lanes)
        return
    size = config.data.global_batch
    legal = legal_world_sizes(size, exact=config.exact_sums)
    if world.world_size not in legal:
        power = "is not a power of two (exact_sums is on) or " if config.exact_sums else ""
        raise UserError(
            f"world size {world.world_size} {power}does not divide data.global_batch {size}, so no micro-batch is "
            f"possible: use {', '.join(map(str, legal))} ranks, or change data.global_batch"
        )


def largest_that_fits(config: Config, world: World, num_labels: int, new_step: NewStep, views: int = 1) -> int:
    """Try micro-batches on this rank's device, the smallest first, until one does not fit; 0 if none does.

    Only the last trial runs out of memory, because on the CPU oneDNN may be unusable afterwards. Must be called before
    the process group is initialized. Samples have up to `views` images. ZeRO is tried as DDP, which needs at least as
    much memory, and gradient checkpointing `auto` as `all`.
    """
    auto = config.model.gradient_checkpointing == "auto"
    plain = dataclasses.replace(
        config,
        parallel="ddp",
        deepspeed="",
        model=dataclasses.replace(
            config.model,
            pretrained=False,  # random weights are as large and need no file
            gradient_checkpointing="all" if auto else config.model.gradient_checkpointing,
        ),
    )
    largest = 0
    for size in reversed(micro_batches_for(config.data.global_batch, world.world_size, exact=config.exact_sums)):
        trial = with_micro_batch(plain, size)
        per_rank = trial.data.num_lanes // world.world_size
        # The second lane accumulates into existing gradients; with exact_sums, each doubling keeps one more copy.
        lanes = range(per_rank if config.exact_sums else min(2, per_rank))
        new_batch = partial(largest_batch, trial, num_labels=num_labels, views=views)
        if not _fits(partial(_steps, trial, lanes, new_batch, new_step), world.device, world.world_size):
            break
        largest = size
    return largest


def with_micro_batch(config: Config, size: int | str) -> Config:
    """The configuration with this micro-batch, which must be a number."""
    assert isinstance(size, int)
    return dataclasses.replace(config, data=dataclasses.replace(config.data, micro_batch=size))


def largest_batch(config: Config, size: int, num_labels: int, views: int = 1) -> Batch:
    """A batch of `size` samples of the maximal size: all images, and reports with the maximal number of tokens."""
    data, model = config.data, config.model
    images = tokens = rows = None
    views = 1 if model.is_contrastive else views  # a draw has one image
    if model.uses_image:
        images = torch.zeros(size * views, 1, data.image_size, data.image_size, dtype=torch.uint8)
        rows = None if views == 1 else torch.arange(size * views).view(size, views)
    if model.uses_text:
        tokens = torch.zeros(size, -(-data.max_tokens // PAD_MULTIPLE) * PAD_MULTIPLE, dtype=torch.int64)
    return Batch(
        images=images,
        view_rows=rows,
        tokens=tokens,
        attention_mask=None if tokens is None else torch.ones_like(tokens),
        labels=torch.zeros(size, num_labels, dtype=torch.int64),
        groups=torch.zeros(size, dtype=torch.int64),
        sample_ids=torch.arange(size),
    )


def _fits(steps: Callable[[], None], device: torch.device, processes: int) -> bool:
    try:
        with limited(device, _SHARE[device.type], processes):
            steps()
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
    """Run steps as in the last epoch, with unfrozen encoders and mixup, and then one batch of the validation."""
    epoch = config.train.epochs - 1
    step = new_step(config, lanes)
    model, device = step.backend.module, step.backend.device
    assert isinstance(model, Encoders)
    model.train()
    model.set_encoders_frozen(config.encoders_frozen(epoch))
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
