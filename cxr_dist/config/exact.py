"""What `exact_sums` cannot be combined with, because results would then depend on the number of ranks."""

from cxr_dist.config.data import DataConfig, is_power_of_two
from cxr_dist.config.ddp import DdpConfig
from cxr_dist.config.model import ModelConfig
from cxr_dist.errors import UserError, require


def check_exact_sums(data: DataConfig, model: ModelConfig, ddp: DdpConfig, parallel: str, *, compiled: bool) -> None:
    """Raise UserError, with the reason and the way out, for settings that `exact_sums` cannot be combined with."""
    reasons = {
        f"--parallel {parallel}: DeepSpeed adds the parts of a gradient in an order that depends on the number of "
        "ranks; use --parallel ddp": parallel != "ddp",
        "--compile: torch compiles other kernels for one rank than for several; leave --compile off": compiled,
        "--model.sync-batchnorm: its statistics are those of the micro-batches that run at the same time; leave it "
        "off": model.sync_batchnorm,
        f"--ddp.comm-hook {ddp.comm_hook}: it rounds gradients before they are added; leave it out": (
            ddp.comm_hook != "none"
        ),
        "--model.gradient-checkpointing auto: it depends on the memory of the ranks, and adds the parts of a gradient "
        "in another order; use off, image, text or all": model.gradient_checkpointing == "auto",
    }
    for reason, applies in reasons.items():
        if applies:
            raise UserError(f"exact_sums is on, which makes results independent of the number of ranks, but {reason}")
    if data.micro_batch != "auto":
        _check_lanes(data.global_batch, data.micro_batch)


def _check_lanes(global_batch: int, micro_batch: int) -> None:
    """Raise UserError, with the legal micro-batches, if the number of lanes is not a power of two."""
    sizes = [size for size in range(1, global_batch + 1) if global_batch % size == 0]
    legal = [str(size) for size in sizes if is_power_of_two(global_batch // size)]
    require(
        is_power_of_two(global_batch // micro_batch),
        f"exact_sums adds a power of two of lanes, but data.global_batch {global_batch} / data.micro_batch "
        f"{micro_batch} is {global_batch // micro_batch}: use a data.micro_batch of {', '.join(legal)}, or change "
        "data.global_batch",
    )
