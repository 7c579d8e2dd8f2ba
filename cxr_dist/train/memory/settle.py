"""`auto` in a configuration becomes a value, once, before anything of the run is built.

The micro-batch fixes the run's numbers, so that config.yaml keeps what its first start found. Gradient checkpointing
changes rounding at most: it is chosen at each start, for the devices that it has.
"""

import contextlib
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch

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

# The fewest operations computed twice first: of DenseNet-121 up to its 3×3 convolutions, of BERT-base every layer.
_BY_COST: tuple[Checkpointing, ...] = ("off", "image", "text", "all")
_SHARE = 0.8  # of a device: the prediction is good to 15 %, and CUDA's context and fragments come on top


def with_recorded_micro_batch(config: Config) -> Config:
    """The configuration with the number that its run folder has for `auto`; unchanged where there is none yet.

    Raises UserError where the folder holds a run that differs in anything else.
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
    device: torch.device,
    *,
    largest: int,
    prepare: Callable[[Config], None],
) -> Config:
    """The configuration without `auto` (all ranks).

    Args:
        config: As the user gave it.
        manifest: Of the run's shards.
        world: All ranks, which have met.
        device: Of this rank.
        largest: The micro-batch that fits this rank's device, as `largest_that_fits` found it; 0 where none does.
        prepare: Makes the run folder once the micro-batch is known, which config.yaml keeps (rank 0). The text
            encoder's configuration is there afterwards, without which its memory is unknown.

    Raises UserError where on some rank not even one sample fits.
    """
    config = _with_least_micro_batch(config, world, device, largest)
    if world.is_main:
        prepare(config)
    wait_for_all()
    if config.model.gradient_checkpointing != "auto":
        return config
    enter("choosing the gradient checkpointing")
    return with_checkpointing(config, _least_checkpointing(config, manifest, world, device))


def _with_least_micro_batch(config: Config, world: World, device: torch.device, largest: int) -> Config:
    """The smallest of what the ranks found serves all of them (all ranks)."""
    if config.data.micro_batch != "auto":
        return config
    least = int(least_over_ranks(torch.tensor(largest, device=device)))
    if least == 0:
        smallest = with_micro_batch(config, 1)
        raise UserError(
            f"data.micro_batch auto: not even 1 fits {describe_memory(device)}, tried as plain data parallel. "
            "Try, in this order:\n  " + "\n  ".join(advice(smallest, world.world_size))
        )
    if world.is_main:
        print(f"data.micro_batch auto: {least} on {describe_memory(device)}", file=sys.stderr)
    return with_micro_batch(config, least)


def _least_checkpointing(
    config: Config, manifest: Manifest, world: World, device: torch.device
) -> Checkpointing:
    """The least gradient checkpointing that every rank's device has room for (all ranks).

    The most where nothing less fits, or nothing is known. fp64, which tests alone use, has none. The run folder keeps
    what was found, so that only its first start spends seconds on it.
    """
    if config.precision == "fp64":
        return "off"
    most = all_checkpointing(config)
    settings = _BY_COST if most == "all" else tuple(dict.fromkeys(("off", most)))
    memory = int(least_over_ranks(torch.tensor(total_memory(device, world.world_size), device=device)))
    chosen = 0
    if world.is_main:
        footprints = _Footprints(config, manifest, device)
        while chosen < len(settings) - 1:
            known = footprints.of(settings[chosen])
            if known is not None and _need(config, known, world.world_size) <= _SHARE * memory:
                break
            chosen += 1
        name = settings[chosen]
        print(f"model.gradient_checkpointing auto: {name} on {describe_memory(device)}", file=sys.stderr)
    return settings[int(from_main(torch.tensor(chosen, device=device)))]


def _need(config: Config, footprint: Footprint, ranks: int) -> int:
    """Bytes of a rank with the run's own engine; a site's DeepSpeed file may need less."""
    several, averaged = config.data.num_lanes > ranks, config.optim.ema_decay > 0
    return peak(footprint, config.parallel, ranks=ranks, several=several, averaged=averaged)


class _Footprints:
    """A run's footprints by gradient checkpointing, kept in its folder for the same software and kind of device."""

    def __init__(self, config: Config, manifest: Manifest, device: torch.device) -> None:
        self._config, self._manifest = config, manifest
        self._kind: Literal["cpu", "cuda"] = "cuda" if device.type == "cuda" else "cpu"
        self._path = config.run_dir / "footprints.json"
        software = {name: version(name) for name in ("cxr_dist", "torch", "torchvision", "transformers")}
        self._stored: dict[str, Any] = {"with": software | {"device": self._kind}, "bytes": {}}
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            stored = json.loads(self._path.read_text())
            if stored["with"] == self._stored["with"]:
                self._stored["bytes"] = dict(stored["bytes"])

    def of(self, setting: Checkpointing) -> Footprint | None:
        """Computed now, where it is not known; None where it cannot be."""
        known = self._stored["bytes"]
        if setting not in known:
            computed = self._computed(setting)
            known[setting] = None if computed is None else asdict(computed)
            write_whole(self._path, json.dumps(self._stored, indent=1) + "\n")
        values = known[setting]
        return None if values is None else Footprint(**values)

    def _computed(self, setting: Checkpointing) -> Footprint | None:
        config = with_checkpointing(self._config, setting)
        text_folder: Path | None = config.run_dir / "text_encoder" if config.model.uses_text else None
        return footprint(config, len(self._manifest.classes), text_folder, self._kind, self._manifest.views)
