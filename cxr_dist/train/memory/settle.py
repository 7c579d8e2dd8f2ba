"""Replaces `auto` in a configuration by a value before the run is built.

The micro-batch determines the results of the run, so config.yaml keeps the value that the first start chose. Gradient
checkpointing changes results by rounding at most, so each start chooses it for its own devices.
"""

import contextlib
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from typing import Any, Literal

import torch

from cxr_dist.config.decode import parse_record
from cxr_dist.config.file import load_config
from cxr_dist.config.model import Checkpointing
from cxr_dist.config.run import Config
from cxr_dist.distributed.reduce import from_main, least_over_ranks, wait_for_all
from cxr_dist.distributed.watch.progress import enter
from cxr_dist.distributed.world import World
from cxr_dist.errors import UserError
from cxr_dist.files import write_whole
from cxr_dist.format.manifest import Manifest
from cxr_dist.run.folder import check_same_run
from cxr_dist.train.memory.footprint import Footprint, footprint
from cxr_dist.train.memory.limits import advice, describe_memory, total_memory
from cxr_dist.train.memory.micro_batch import with_micro_batch
from cxr_dist.train.memory.needs import all_checkpointing, peak, with_checkpointing

# In the order of recomputed operations: of DenseNet-121 all before the 3×3 convolutions, of BERT-base every layer.
_BY_COST: tuple[Checkpointing, ...] = ("off", "image", "text", "all")
_SHARE = 0.8  # of a device's memory: the prediction is accurate to 15 % and excludes CUDA's context and fragmentation


def with_recorded_micro_batch(config: Config) -> Config:
    """The configuration with the micro-batch recorded in its run folder in place of `auto`, if there is a run.

    Raises UserError if the run in the folder differs in any other setting.
    """
    path = config.run_dir / "config.yaml"
    if config.data.micro_batch != "auto" or not path.is_file():
        return config
    check_same_run(config.run_dir, config)
    return with_micro_batch(config, load_config(path).data.micro_batch)


def settled(
    config: Config,
    manifest: Manifest,
    world: World,
    *,
    largest: int,
    prepare: Callable[[Config], None],
) -> Config:
    """The configuration without `auto` (all ranks).

    Args:
        config: The configuration as given by the user.
        manifest: The manifest of the run's shards.
        world: All ranks; the process group must be initialized.
        largest: The largest micro-batch that fits this rank's device, from `largest_that_fits`; 0 if none does.
        prepare: Creates the run folder once the micro-batch is known (rank 0). This includes config.yaml and the
            configuration of the text encoder, from which its memory is predicted.

    Raises UserError if not even one sample fits on some rank.
    """
    config = _with_least_micro_batch(config, world, largest)
    if world.is_main:
        prepare(config)
    wait_for_all()
    if config.model.gradient_checkpointing != "auto":
        return config
    enter("choosing the gradient checkpointing")
    return with_checkpointing(config, _least_checkpointing(config, manifest, world))


def _with_least_micro_batch(config: Config, world: World, largest: int) -> Config:
    """Replace a micro-batch `auto` by the smallest of the ranks' largest micro-batches (all ranks)."""
    if config.data.micro_batch != "auto":
        return config
    least = int(least_over_ranks(torch.tensor(largest, device=world.device)))
    if least == 0:
        smallest = with_micro_batch(config, 1)
        raise UserError(
            f"data.micro_batch auto: not even 1 fits {describe_memory(world.device)}, tried with DDP. "
            "Try, in this order:\n  " + "\n  ".join(advice(smallest, world.world_size))
        )
    if world.is_main:
        print(f"data.micro_batch auto: {least} on {describe_memory(world.device)}", file=sys.stderr)
    return with_micro_batch(config, least)


def _least_checkpointing(config: Config, manifest: Manifest, world: World) -> Checkpointing:
    """The gradient checkpointing that recomputes the least and fits the device of every rank (all ranks).

    It is the maximal one if no other fits or the footprint is unknown, and "off" for fp64, which only tests use. The
    run folder keeps the footprints, so that only the first start spends seconds on them.
    """
    if config.precision == "fp64":
        return "off"
    most = all_checkpointing(config)
    settings = _BY_COST if most == "all" else tuple(dict.fromkeys(("off", most)))
    memory = int(least_over_ranks(torch.tensor(total_memory(world.device, world.world_size), device=world.device)))
    chosen = 0
    if world.is_main:
        footprints = _Footprints(config, manifest, world.device)
        while chosen < len(settings) - 1:
            known = footprints.of(settings[chosen])
            if known is not None and _need(config, known, world.world_size) <= _SHARE * memory:
                break
            chosen += 1
        name = settings[chosen]
        print(f"model.gradient_checkpointing auto: {name} on {describe_memory(world.device)}", file=sys.stderr)
    return settings[int(from_main(torch.tensor(chosen, device=world.device)))]


def _need(config: Config, footprint: Footprint, ranks: int) -> int:
    """Peak bytes of a rank with the run's engine; a DeepSpeed file of the user may reduce them."""
    several, averaged = config.data.num_lanes > ranks, config.optim.ema_decay > 0
    return peak(footprint, config.parallel, ranks=ranks, several=several, averaged=averaged)


class _Footprints:
    """Footprints of a run by gradient checkpointing, cached in its folder for this software and kind of device."""

    def __init__(self, config: Config, manifest: Manifest, device: torch.device) -> None:
        self._config, self._manifest = config, manifest
        self._kind: Literal["cpu", "cuda"] = "cuda" if device.type == "cuda" else "cpu"
        self._path = config.run_dir / "footprints.json"
        software = {name: version(name) for name in ("cxr_dist", "torch", "torchvision", "transformers")}
        self._stored: dict[str, Any] = {"with": software | {"device": self._kind}, "bytes": {}}
        with contextlib.suppress(UserError, ValueError, KeyError, TypeError):
            stored = parse_record(self._path, self._path.name)
            if stored["with"] == self._stored["with"]:
                self._stored["bytes"] = dict(stored["bytes"])

    def of(self, setting: Checkpointing) -> Footprint | None:
        """The footprint with this setting, computed if it is not cached; None if it cannot be computed."""
        known = self._stored["bytes"]
        if setting not in known:
            config = with_checkpointing(self._config, setting)
            text = config.run_dir / "text_encoder" if config.model.uses_text else None
            num_classes, views = len(self._manifest.classes), self._manifest.views
            computed = footprint(config, num_classes, text, self._kind, views)
            known[setting] = None if computed is None else asdict(computed)
            write_whole(self._path, json.dumps(self._stored, indent=1) + "\n")
        values = known[setting]
        return None if values is None else Footprint(**values)
