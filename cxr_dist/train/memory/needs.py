"""Predicts how much device memory a rank needs, for `cxr-dist plan` and settle.py.

The plan has a line for each gradient checkpointing setting. The line lists the engines, whose activations are the same.
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
_NODE = 8  # the most ranks for which a line gives the memory


def peak(
    sizes: Footprint,
    engine: Engine,
    *,
    ranks: int,
    several: bool,
    averaged: bool,
    offload: bool = False,
    exact_lanes: int = 0,
) -> int:
    """Peak bytes of a rank's tensors during a step, without CUDA's context and fragmentation; arguments as of held."""
    kept = held(
        sizes, engine, ranks=ranks, several=several, averaged=averaged, offload=offload, exact_lanes=exact_lanes
    )
    # In a single micro-batch the gradients are allocated one by one, except if DDP's buckets hold them already.
    fresh = exact_lanes > 0 or (not several and (engine == "zero1" or (engine == "ddp" and ranks == 1)))
    return max(kept.backward + (sizes.first if fresh else sizes.later), kept.update)


def describe_memory_needs(config: Config, num_classes: int, text_folder: Path | None, views: int) -> dict[str, str]:
    """Name -> GiB by engine, with the run's own gradient checkpointing and with the maximal one.

    `text_folder` holds the text encoder's config.json; None in image mode. Empty for fp64, which only tests use. Each
    line takes some seconds, in which torch runs the network without values.
    """
    if config.precision == "fp64":
        return {}
    if config.data.micro_batch == "auto":
        size = min(_USUAL_MICRO_BATCH, config.data.global_batch)
        while config.data.global_batch % size:
            size -= 1
        config = replace(config, data=replace(config.data, micro_batch=size))
    title = f"GiB on a GPU with micro-batch {config.data.micro_batch}, by gradient checkpointing"
    facts = {"memory of a rank": title}
    own = config.model.gradient_checkpointing
    for setting in dict.fromkeys(("off" if own == "auto" else own, all_checkpointing(config))):
        changed = with_checkpointing(config, setting)
        sizes = footprint(changed, num_classes, text_folder, "cuda", views)
        facts[f"  {config.precision}, checkpointing {setting}"] = (
            "unknown: an encoder does not run without values" if sizes is None else _line(changed, sizes)
        )
    return facts


def with_checkpointing(config: Config, setting: Checkpointing) -> Config:
    """The configuration with this gradient checkpointing setting."""
    return replace(config, model=replace(config.model, gradient_checkpointing=setting))


def all_checkpointing(config: Config) -> Checkpointing:
    """The setting that recomputes every encoder of the run that supports it."""
    encoders = recomputable(config)
    return "all" if len(encoders) == 2 else "text" if "text" in encoders else "image" if encoders else "off"


def _line(config: Config, sizes: Footprint) -> str:
    lanes = config.data.num_lanes
    ranks = max(size for size in range(1, _NODE + 1) if lanes % size == 0)
    averaged = config.optim.ema_decay > 0

    def gib(engine: Engine, ranks: int, offload: bool = False) -> str:
        exact_lanes = lanes // ranks if config.exact_sums else 0
        several = lanes > ranks
        size = peak(
            sizes, engine, ranks=ranks, several=several, averaged=averaged, offload=offload, exact_lanes=exact_lanes
        )
        return f"{engine} {size / 2**30:.2f}"

    alone = f"1 rank: {gib('ddp', 1)}"
    if ranks == 1:
        return alone
    if config.exact_sums:
        return f"{alone}; {ranks} ranks: {gib('ddp', ranks)}"
    together = ", ".join(gib(engine, ranks) for engine in _ENGINES)
    offloaded = ", ".join(gib(engine, ranks, True) for engine in _OFFLOADED)
    return f"{alone}; {ranks} ranks: {together}; with offload {offloaded}"
