"""How much of a device's memory a rank will need, for `cxr-dist plan` and settle.py.

In the plan a line is one gradient checkpointing; in it the engines, whose activations are the same.
"""

from dataclasses import replace
from pathlib import Path

from cxr_dist.config.model import Checkpointing
from cxr_dist.config.run import Config
from cxr_dist.model.own_parts import recomputable
from cxr_dist.train.memory.engines import Engine, held
from cxr_dist.train.memory.footprint import Footprint, footprint

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
    own = config.model.gradient_checkpointing
    for setting in dict.fromkeys(("off" if own == "auto" else own, all_checkpointing(config))):
        changed = with_checkpointing(config, setting)
        found = footprint(changed, num_classes, text_folder, "cuda", views)
        facts[f"  {config.precision}, checkpointing {setting}"] = (
            "unknown: an encoder does not run without values" if found is None else _line(changed, found)
        )
    return facts


def with_checkpointing(config: Config, setting: Checkpointing) -> Config:
    """The configuration with another gradient checkpointing."""
    return replace(config, model=replace(config.model, gradient_checkpointing=setting))


def all_checkpointing(config: Config) -> Checkpointing:
    """All that the run's encoders can recompute."""
    encoders = recomputable(config.model)
    return "all" if len(encoders) == 2 else "text" if "text" in encoders else "image" if encoders else "off"


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
