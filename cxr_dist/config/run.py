"""The typed configuration of a run: frozen, checked when it is created and saved with the run.

Every field can be set on the command line as `--section.field-name VALUE`. The modules of the sections import only
the standard library, so that the command line starts fast.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cxr_dist.config.data import DataConfig
from cxr_dist.config.ddp import DdpConfig
from cxr_dist.config.exact import check_exact_sums
from cxr_dist.config.model import ModelConfig
from cxr_dist.config.optim import LossConfig, OptimConfig
from cxr_dist.config.pretrain import PretrainConfig, check_contrastive
from cxr_dist.config.range import Range, check_ranges
from cxr_dist.config.train import TrainConfig
from cxr_dist.errors import require

if TYPE_CHECKING:
    import torch

Precision = Literal["fp32", "bf16", "fp64"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """The configuration of one run. Named runs are in config/named.py."""

    run: str = "enhanced"
    """Name of the named run that supplied the defaults."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    precision: Precision = "fp32"
    """Floating-point precision. `bf16` is autocast with fp32 master weights; `fp64` is meant for tests of exactness."""
    compile: bool = False
    """Compile the training forward and backward pass with torch.compile. The first step takes minutes longer and later
    steps are faster. It requires a compiler: triton on a GPU, g++ on a CPU."""
    parallel: Literal["ddp", "zero1", "zero2", "zero3"] = "ddp"
    """Engine of parallel training: DistributedDataParallel or a DeepSpeed ZeRO stage."""
    ddp: DdpConfig = field(default_factory=DdpConfig)
    exact_sums: bool = False
    """Add the gradients of a step as a binary tree of fixed shape, so that a run has the same bits on 1, 2, 4, … ranks
    of the same kind of machine. The number of lanes must be a power of two. See docs/explanation/same-bits.md."""
    deepspeed: str = ""
    """JSON file of DeepSpeed settings that override the package's own (see launch/deepspeed/); with zero1 to zero3."""
    seed: Annotated[int, Range(min=0, max=2**31 - 1)] = 42
    """Seed of initial weights, sampling, augmentation, mixup and dropout at any world size, 0 to 2^31 - 1."""
    trackers: tuple[str, ...] = ()
    """Trackers in addition to metrics.jsonl, TensorBoard and the console: mlflow, wandb (offline; both need the extra
    `trackers`), or your own as MODULE:NAME or FILE.py:NAME. They do not change any result."""
    out: str = ""
    """The run folder; if empty, runs/NAME."""

    @property
    def run_dir(self) -> Path:
        """The run folder."""
        return Path(self.out or f"runs/{self.run}")

    def encoders_frozen(self, epoch: int) -> bool:
        """Whether the encoders get no gradients at all in an epoch, counted from 0."""
        return self.model.adapt == "head" or epoch < self.train.freeze_epochs

    @property
    def named_parts(self) -> dict[str, tuple[str, ...]]:
        """Field -> the names in it, for every field that may name a user's own part (config/lookup.py)."""
        return {"data.stages": self.data.stages, **self.model.named_parts} | {
            "loss.name": (self.loss.name,),
            "trackers": self.trackers,
        }

    def autocast(self, device_type: str) -> "torch.autocast":
        """Return bf16 autocast for a device type (cpu or cuda) if `precision` is bf16; else a disabled context."""
        import torch  # not at the top, so that the command line starts without it

        return torch.autocast(device_type, torch.bfloat16, enabled=self.precision == "bf16")

    def __post_init__(self) -> None:
        check_ranges(self)
        require(
            self.parallel == "ddp" or self.precision != "fp64",
            "DeepSpeed has no fp64: use --parallel ddp, or --precision fp32 or bf16",
        )
        require(
            self.parallel != "ddp" or not self.deepspeed,
            f"deepspeed is {self.deepspeed!r}, but parallel is ddp: add --parallel zero1, zero2 or zero3",
        )
        require(
            self.parallel != "zero3" or not self.compile,
            "zero3 gathers parameters layer by layer, which cannot be compiled: leave --compile off, or use ddp, zero1 "
            "or zero2",
        )
        self.ddp.check(self.parallel, self.precision)
        if self.exact_sums:
            check_exact_sums(self.data, self.model, self.ddp, self.parallel, compiled=self.compile)
        if self.model.is_contrastive:
            check_contrastive(self.data, self.train, compiled=self.compile)
        if self.model.uses_text:
            require(
                len(self.data.text_sections) > 0,
                f"model.mode {self.model.mode} reads the report, but data.text_sections is empty: name one, "
                "or use --model.mode image",
            )
