"""How much of a device's memory a rank will need: for `cxr-dist plan`, and to choose a run's gradient checkpointing.

In the plan a line is one gradient checkpointing; in it the engines, whose activations are the same.
"""

import contextlib
import json
import sys
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch

from cxr_dist.config.run import Config
from cxr_dist.distributed.reduce import from_main, least_over_ranks
from cxr_dist.distributed.world import World
from cxr_dist.files import write_whole
from cxr_dist.train.memory.engines import Engine, held
from cxr_dist.train.memory.footprint import Footprint, footprint
from cxr_dist.train.memory.limits import describe_memory, total_memory

Recompute = bool | Literal["auto", "text", "image", "all"]
# The fewest operations computed twice first: of DenseNet-121 up to its 3×3 convolutions, of BERT-base every layer.
_BY_COST: tuple[Recompute, ...] = (False, "image", "text", "all")
_SHARE = 0.8  # of a device: the prediction is good to 15 %, and CUDA's context and fragments come on top
_ENGINES: tuple[Engine, ...] = ("ddp", "zero1", "zero2", "zero3")
_OFFLOADED: tuple[Engine, ...] = ("zero2", "zero3")
_USUAL_MICRO_BATCH = 8
_NODE = 8  # ranks that a line speaks of, where so many divide the lanes


def peak(
    found: Footprint, engine: Engine, *, ranks: int, several: bool, averaged: bool, offload: bool = False
) -> int:
    """Bytes of a rank's tensors at the worst moment of a step; CUDA's own context and fragments come on top."""
    kept = held(
        engine,
        ranks=ranks,
        weights=found.weights,
        gradients=found.gradients,
        several=several,
        averaged=averaged,
        offload=offload,
    )
    # In its only micro-batch gradients come one by one, except where DDP's buckets wait for them.
    fresh = not several and (engine == "zero1" or (engine == "ddp" and ranks == 1))
    return max(kept.backward + (found.first if fresh else found.later), kept.update)


def describe_memory_needs(
    config: Config, num_classes: int, text_folder: Path | None, views: int
) -> dict[str, str]:
    """Name -> engines with GiB: with the run's own gradient checkpointing, and with the most of it.

    `text_folder` holds the text encoder's config.json; None in image mode. Nothing for fp64, which tests alone use.
    A line takes some seconds, in which torch traces the network without values.
    """
    if config.precision == "fp64":
        return {}
    if config.data.micro_batch == "auto":
        size = min(_USUAL_MICRO_BATCH, config.data.global_batch)
        while config.data.global_batch % size:
            size -= 1
        config = replace(config, data=replace(config.data, micro_batch=size))
    facts = {
        "memory of a rank": f"GiB on a GPU with micro-batch {config.data.micro_batch}, by gradient checkpointing"
    }
    own, most = config.model.gradient_checkpointing, _most(config)
    own = False if own == "auto" else own
    for setting in [own] if _name(own) == most else [own, most]:
        changed = _with_checkpointing(config, setting)
        found = footprint(changed, num_classes, text_folder, "cuda", views)
        facts[f"  {config.precision}, checkpointing {_name(setting)}"] = (
            "unknown: the text encoder does not run without values"
            if found is None
            else _line(changed, found)
        )
    return facts


def with_settled_checkpointing(
    config: Config, num_classes: int, text_folder: Path | None, world: World, device: torch.device, views: int
) -> Config:
    """The configuration with gradient checkpointing `auto` decided: the least that every rank's device has room for.

    The most where nothing less fits, or nothing is known. fp64, which tests alone use, has none. The run folder keeps
    what was found, so that only its first start spends seconds on it (all ranks).
    """
    assert config.model.gradient_checkpointing == "auto"
    if config.precision == "fp64":
        return _with_checkpointing(config, False)
    most = _most(config)
    settings = _BY_COST if most == "all" else (False, most)
    memory = int(least_over_ranks(torch.tensor(total_memory(device, world.world_size), device=device)))
    chosen = 0
    if world.is_main:
        known = _Footprints(config, num_classes, text_folder, device, views)
        while chosen < len(settings) - 1:
            found = known.of(settings[chosen])
            if found is not None and _need(config, found, world.world_size) <= _SHARE * memory:
                break
            chosen += 1
        name = _name(settings[chosen])
        print(f"model.gradient_checkpointing auto: {name} on {describe_memory(device)}", file=sys.stderr)
    chosen = int(from_main(torch.tensor(chosen, device=device)))
    return _with_checkpointing(config, settings[chosen])


class _Footprints:
    """A run's footprints by gradient checkpointing, kept in its folder for the same software and kind of device."""

    def __init__(
        self, config: Config, num_classes: int, text_folder: Path | None, device: torch.device, views: int
    ) -> None:
        self._config, self._of_run = config, (num_classes, text_folder)
        self._kind: Literal["cpu", "cuda"] = "cuda" if device.type == "cuda" else "cpu"
        self._views, self._path = views, config.run_dir / "footprints.json"
        found_with = {name: version(name) for name in ("cxr_dist", "torch", "torchvision", "transformers")}
        self._stored: dict[str, Any] = {"with": found_with | {"device": self._kind}, "bytes": {}}
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            stored = json.loads(self._path.read_text())
            if stored["with"] == self._stored["with"]:
                self._stored["bytes"] = dict(stored["bytes"])

    def of(self, setting: Recompute) -> Footprint | None:
        """Found now, where it is not known; None where it cannot be."""
        known = self._stored["bytes"]
        if _name(setting) not in known:
            changed = _with_checkpointing(self._config, setting)
            found = footprint(changed, *self._of_run, self._kind, self._views)
            known[_name(setting)] = None if found is None else asdict(found)
            write_whole(self._path, json.dumps(self._stored, indent=1) + "\n")
        values = known[_name(setting)]
        return None if values is None else Footprint(**values)


def _with_checkpointing(config: Config, setting: Recompute) -> Config:
    return replace(config, model=replace(config.model, gradient_checkpointing=setting))


def _need(config: Config, found: Footprint, ranks: int) -> int:
    """Bytes of a rank with the run's own engine; a site's DeepSpeed file may need less."""
    several, averaged = config.data.num_lanes > ranks, config.optim.ema_decay > 0
    return peak(found, config.parallel, ranks=ranks, several=several, averaged=averaged)


def _most(config: Config) -> Literal["text", "image", "all"]:
    """All that the run's encoders can recompute."""
    if config.model.uses_text and config.model.uses_image:
        return "all"
    return "text" if config.model.uses_text else "image"


def _name(setting: Recompute) -> str:
    return {"False": "off", "True": "text"}.get(str(setting), str(setting))


def _line(config: Config, found: Footprint) -> str:
    lanes = config.data.num_lanes
    ranks = max(size for size in range(1, _NODE + 1) if lanes % size == 0)
    averaged = config.optim.ema_decay > 0

    def gib(engine: Engine, ranks: int, offload: bool = False) -> str:
        several = lanes > ranks
        size = peak(found, engine, ranks=ranks, several=several, averaged=averaged, offload=offload)
        return f"{engine} {size / 2**30:.2f}"

    alone = f"1 rank: {gib('ddp', 1)}"
    if ranks == 1:
        return alone
    together = ", ".join(gib(engine, ranks) for engine in _ENGINES)
    offloaded = ", ".join(gib(engine, ranks, True) for engine in _OFFLOADED)
    return f"{alone}; {ranks} ranks: {together}; with offload {offloaded}"
