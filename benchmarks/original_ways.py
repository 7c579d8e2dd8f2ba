"""The ways that benchmarks/original.py compares: a run and a device in, what makes one update of each way out.

Ours come one change after the other, each on top of those before it. They share weights and moments where the layout
in memory is the same, because two models of every kind would not fit a small machine.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, RandomSampler

from benchmarks.loader_peers import Data, original_dataset
from benchmarks.mc_dropout import build
from benchmarks.original_notebook import BATCH, CLASSES, TOKENS, NotebookBatch, NotebookLoop
from benchmarks.step import made_batches
from cxr_dist.config.named import named_run
from cxr_dist.config.run import Config
from cxr_dist.data.batch import Batch
from cxr_dist.data.loader import training_batches, training_plan
from cxr_dist.data.packing import packed_positions
from cxr_dist.distributed.backend import new_backend
from cxr_dist.distributed.engine import NewOptimizer
from cxr_dist.distributed.world import World
from cxr_dist.format.manifest import load_manifest
from cxr_dist.model.classifier import Classifier, build_classifier
from cxr_dist.model.losses import ClassificationLoss
from cxr_dist.train.assembly import new_optimizer
from cxr_dist.train.step import TrainStep

ORIGINAL, OURS = "original notebook", "cxr_dist"
FULL_SIDE, FILMS = 2048, 32  # of the notebook's PNGs: pixels, and how many there are
LARGER = (32, 256)  # micro-batches on a GPU


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to train."""

    samples: int
    """In one update."""
    update: Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One of our ways."""

    config: Config
    packed: bool = False
    """Whether the text encoder leaves padding out."""
    channels_last: bool = False
    """The image encoder's layout in memory; in the package it is always this one."""


def settings_on_the_way(
    run: str, device: torch.device, accumulate: int, *, compiled: bool
) -> dict[str, Settings]:
    """Name -> settings, each with one change more than the one before."""
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
        found[name] = dataclasses.replace(
            last, config=dataclasses.replace(last.config, **of_config), **changes
        )

    if config.model.uses_text:
        add("+ text without padding", packed=True)
    add("+ channels_last", channels_last=True)
    add("+ bf16", precision="bf16")
    if compiled:
        add("+ torch.compile", compile=True)
    for size in LARGER if device.type == "cuda" else ():
        add(
            f"+ micro-batches of {size}",
            data=dataclasses.replace(
                config.data, global_batch=max(size, BATCH * accumulate), micro_batch=size
            ),
        )
    return found


def step_ways(run: str, device: torch.device, accumulate: int, *, compiled: bool) -> dict[str, Way]:
    """The step alone: the notebook's, with a stem for one channel, and ours."""
    ways = {}
    for name, channels in ((ORIGINAL, 3), ("+ stem for one channel", 1)):
        loop = NotebookLoop(run, device, channels=channels)
        batches = [_made_notebook_batch(channels) for _ in range(accumulate)]
        ways[name] = Way(samples=BATCH * accumulate, update=_repeating(loop, itertools.repeat(batches)))
    shared: dict[tuple[bool, bool], tuple[Classifier, NewOptimizer]] = {}
    for name, settings in settings_on_the_way(run, device, accumulate, compiled=compiled).items():
        kind = (settings.channels_last, settings.config.compile)
        if kind not in shared:
            shared[kind] = new_model(settings, device), _one_optimizer(new_optimizer(settings.config))
        ways[name] = our_way(
            settings, device, *shared[kind], itertools.repeat(_made_batches(settings, device))
        )
    return ways


def whole_loops(
    run: str, device: torch.device, data: Data, accumulate: int, *, compiled: bool
) -> dict[str, Way]:
    """The notebook's loop over files, and ours, with all its changes, over shards."""
    dataset = original_dataset(data, FULL_SIDE, FILMS)
    loader = DataLoader(
        dataset,
        BATCH,
        sampler=RandomSampler(dataset, replacement=True, num_samples=10**7),
        num_workers=data.workers,
    )
    loop = NotebookLoop(run, device)
    films = (_notebook_batch(batch) for batch in loader)
    updates = iter(lambda: list(itertools.islice(films, accumulate)), [])
    settings = list(settings_on_the_way(run, device, accumulate, compiled=compiled).values())[-1]
    parts = new_model(settings, device), new_optimizer(settings.config)
    return {
        ORIGINAL: Way(samples=BATCH * accumulate, update=_repeating(loop, updates)),
        OURS: our_way(settings, device, *parts, _read_batches(settings, data)),
    }


def new_model(settings: Settings, device: torch.device) -> Classifier:
    """The run's model with random weights."""
    torch.manual_seed(0)
    model = settings.config.model
    built = build(device) if model.uses_text else build_classifier(model, CLASSES, None).to(device)
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
    """The package's step over the micro-batches of one update after the other."""
    config = settings.config
    backend = new_backend(config, World(), device, model, new_optimizer)
    backend.prepare()
    loss = ClassificationLoss(
        name=config.loss.name, gamma=config.loss.gamma, class_weights=None, task="multiclass"
    )
    step = TrainStep(config, backend, loss, CLASSES, range(config.data.num_lanes))
    numbers = itertools.count()

    def update() -> None:
        step(next(numbers), 0, next(updates), False)

    return Way(samples=config.data.global_batch, update=update)


def _repeating(loop: NotebookLoop, updates: Iterator[list[NotebookBatch]]) -> Callable[[], None]:
    return lambda: loop(next(updates))


def _one_optimizer(new: NewOptimizer) -> NewOptimizer:
    """The same optimizer for every engine over one model."""
    made: list[torch.optim.Optimizer] = []

    def get(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        if not made:
            made.append(new(groups))
        return made[0]

    return get


def _made_notebook_batch(channels: int) -> NotebookBatch:
    lengths = torch.linspace(32, TOKENS, BATCH).round().long()
    mask = (torch.arange(TOKENS) < lengths[:, None]).long()
    tokens = torch.randint(1000, 28000, (BATCH, TOKENS)) * mask
    return NotebookBatch(
        torch.randn(BATCH, channels, 224, 224), tokens, mask, torch.randint(CLASSES, (BATCH,))
    )


def _notebook_batch(batch: dict[str, torch.Tensor]) -> NotebookBatch:
    labels = torch.randint(CLASSES, (BATCH,))
    return NotebookBatch(batch["image"], batch["input_ids"], batch["attention_mask"], labels)


def _made_batches(settings: Settings, device: torch.device) -> list[Batch]:
    batches = made_batches(settings.config, device)
    if settings.packed:
        batches = [_without_padding(batch) for batch in batches]
    return [batch.pin_memory() for batch in batches] if device.type == "cuda" else batches


def _without_padding(batch: Batch) -> Batch:
    assert batch.attention_mask is not None
    return dataclasses.replace(batch, token_positions=packed_positions(batch.attention_mask))


def _read_batches(settings: Settings, data: Data) -> Iterator[list[Batch]]:
    """Ours, from the shards."""
    config = dataclasses.replace(
        settings.config.data, shards=str(data.shards), workers=data.workers, text_sections=data.sections
    )
    manifest = load_manifest(data.shards)
    stream = training_batches(
        config,
        manifest,
        training_plan(config, manifest, seed=0),
        lanes=range(config.num_lanes),
        first_step=0,
        tokenizer=data.tokenizer if settings.config.model.uses_text else None,
        with_images=True,
    )
    while True:
        yield [next(stream) for _ in range(config.num_lanes)]
