"""The ways to train that benchmarks.original compares, as functions that make one update.

The package's ways add one change after the other. Ways with the same memory layout share weights and moments, because
separate models would not fit a small machine.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, RandomSampler

from benchmarks.films import Data, stream
from benchmarks.full_size import CLASSES, build, new_step, synthetic_batches, synthetic_inputs
from benchmarks.loader.peers import original_dataset
from benchmarks.original.notebook import BATCH, NotebookBatch, NotebookLoop
from cxr_dist.config.named import named_run
from cxr_dist.config.run import Config
from cxr_dist.data.batch import Batch
from cxr_dist.distributed.engine import NewOptimizer
from cxr_dist.model.classifier import Classifier
from cxr_dist.train.assembly import new_optimizer

ORIGINAL, OURS = "original notebook", "cxr_dist"
FULL_SIDE, FILMS = 2048, 32  # side of the notebook's PNGs in pixels, and their number
LARGER = (32, 256)  # micro-batches on a GPU


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to train."""

    samples: int
    """Samples per update."""
    update: Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of one of the package's ways."""

    config: Config
    packed: bool = False
    """Whether the text encoder skips padding."""
    channels_last: bool = False
    """Whether the image encoder's memory layout is channels_last, as it always is in the package."""


def settings_on_the_way(run: str, device: torch.device, accumulate: int, *, compiled: bool) -> dict[str, Settings]:
    """The settings by name, each with one more change than the previous one."""
    named = named_run(run)
    config = dataclasses.replace(
        named,
        precision="fp32",
        data=dataclasses.replace(named.data, global_batch=BATCH * accumulate, micro_batch=BATCH),
        model=dataclasses.replace(named.model, gradient_checkpointing="off"),
    )
    found = {"our step, float32": Settings(config=config)}

    def add(name: str, **changes: Any) -> None:
        last = next(reversed(found.values()))
        of_config = {name: changes.pop(name) for name in ("precision", "compile", "data") if name in changes}
        found[name] = dataclasses.replace(last, config=dataclasses.replace(last.config, **of_config), **changes)

    if config.model.uses_text:
        add("+ text without padding", packed=True)
    add("+ channels_last", channels_last=True)
    add("+ bf16", precision="bf16")
    if compiled:
        add("+ torch.compile", compile=True)
    for size in LARGER if device.type == "cuda" else ():
        add(
            f"+ micro-batches of {size}",
            data=dataclasses.replace(config.data, global_batch=max(size, BATCH * accumulate), micro_batch=size),
        )
    return found


def step_ways(run: str, device: torch.device, accumulate: int, *, compiled: bool) -> dict[str, Way]:
    """The training step alone: the notebook's, the same with one input channel, and the package's."""
    ways = {}
    for name, channels in ((ORIGINAL, 3), ("+ stem for one channel", 1)):
        loop = NotebookLoop(run, device, channels=channels)
        batches = [_synthetic_notebook_batch(channels) for _ in range(accumulate)]
        ways[name] = Way(samples=BATCH * accumulate, update=_repeating(loop, itertools.repeat(batches)))
    shared: dict[tuple[bool, bool], tuple[Classifier, NewOptimizer]] = {}
    for name, settings in settings_on_the_way(run, device, accumulate, compiled=compiled).items():
        kind = (settings.channels_last, settings.config.compile)
        if kind not in shared:
            shared[kind] = new_model(settings, device), _one_optimizer(new_optimizer(settings.config))
        data = settings.config.data
        made = synthetic_batches(int(data.micro_batch), data.num_lanes, device, packed=settings.packed)
        ways[name] = our_way(settings, device, *shared[kind], itertools.repeat(made))
    return ways


def whole_loops(run: str, device: torch.device, data: Data, accumulate: int, *, compiled: bool) -> dict[str, Way]:
    """The notebook's loop over files, and the package's, with all changes, over shards."""
    dataset = original_dataset(data, FULL_SIDE, FILMS)
    loader = DataLoader(
        dataset,
        BATCH,
        sampler=RandomSampler(dataset, replacement=True, num_samples=10**7),
        num_workers=data.workers,
    )
    loop = NotebookLoop(run, device)
    batches = (_notebook_batch(batch) for batch in loader)
    updates = iter(lambda: list(itertools.islice(batches, accumulate)), [])
    settings = list(settings_on_the_way(run, device, accumulate, compiled=compiled).values())[-1]
    parts = new_model(settings, device), new_optimizer(settings.config)
    return {
        ORIGINAL: Way(samples=BATCH * accumulate, update=_repeating(loop, updates)),
        OURS: our_way(settings, device, *parts, _read_batches(settings, data)),
    }


def new_model(settings: Settings, device: torch.device) -> Classifier:
    """The run's model with random weights."""
    built = build(device, settings.config.model)
    if not settings.channels_last:
        built.to(memory_format=torch.contiguous_format)
    return built.train()


def our_way(
    settings: Settings,
    device: torch.device,
    model: Classifier,
    new_optimizer: NewOptimizer,
    updates: Iterator[list[Batch]],
) -> Way:
    """The package's training step; each call takes the micro-batches of the next update."""
    step = new_step(settings.config, model, optimizer=new_optimizer)
    numbers = itertools.count()

    def update() -> None:
        step(next(numbers), 0, next(updates), False)

    return Way(samples=settings.config.data.global_batch, update=update)


def _repeating(loop: NotebookLoop, updates: Iterator[list[NotebookBatch]]) -> Callable[[], None]:
    return lambda: loop(next(updates))


def _one_optimizer(new: NewOptimizer) -> NewOptimizer:
    """Make every engine over one model use the same optimizer."""
    made: list[torch.optim.Optimizer] = []

    def get(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        if not made:
            made.append(new(groups))
        return made[0]

    return get


def _synthetic_notebook_batch(channels: int) -> NotebookBatch:
    made = synthetic_inputs(BATCH, torch.device("cpu"), channels)
    labels = torch.randint(CLASSES, (BATCH,))
    return NotebookBatch(*made[:3], labels)


def _notebook_batch(batch: dict[str, torch.Tensor]) -> NotebookBatch:
    labels = torch.randint(CLASSES, (BATCH,))
    return NotebookBatch(batch["image"], batch["input_ids"], batch["attention_mask"], labels)


def _read_batches(settings: Settings, data: Data) -> Iterator[list[Batch]]:
    """The package's micro-batches of each update, read from the shards."""
    config = dataclasses.replace(
        settings.config.data, shards=str(data.shards), workers=data.workers, text_sections=data.sections
    )
    batches = stream(config, data.tokenizer if settings.config.model.uses_text else None)
    return iter(lambda: list(itertools.islice(batches, config.num_lanes)), [])
