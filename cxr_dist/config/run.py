"""The typed configuration of a run: frozen, checked when made, saved with the run.

The rooms of config/ import nothing but the standard library, so that the command line starts fast.
All fields can be set as `--section.field-name VALUE`.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cxr_dist.config.data import DataConfig
from cxr_dist.config.ddp import DdpConfig
from cxr_dist.config.model import ModelConfig
from cxr_dist.config.optim import LossConfig, OptimConfig
from cxr_dist.config.train import TrainConfig
from cxr_dist.errors import require

if TYPE_CHECKING:
    import torch

Precision = Literal["fp32", "bf16", "fp64"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """One run. Named runs are in config/named.py."""

    run: str = "enhanced"
    """Name of the run that these values started from."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    precision: Precision = "fp32"
    """bf16: autocast with fp32 master weights. fp64 is for tests of exactness."""
    compile: bool = False
    """torch.compile for the training forward and backward pass: the first step takes minutes longer, and later ones
    are faster. It needs a compiler: triton on a GPU, g++ on a CPU."""
    parallel: Literal["ddp", "zero1", "zero2", "zero3"] = "ddp"
    """DistributedDataParallel, or a DeepSpeed ZeRO stage."""
    ddp: DdpConfig = field(default_factory=DdpConfig)
    deepspeed: str = ""
    """A JSON file of DeepSpeed settings over the package's own, as in launch/deepspeed/; with zero1 to zero3."""
    seed: int = 42
    """Fixes initial weights, sampling, augmentation, mixup and dropout, at any world size."""
    trackers: tuple[str, ...] = ()
    """Trackers of your own beside metrics.jsonl, TensorBoard and the console: each MODULE:NAME or FILE.py:NAME, as
    train/trackers.py says. They change no number."""
    out: str = ""
    """The run folder; empty: runs/NAME."""

    @property
    def run_dir(self) -> Path:
        """Where the run lives."""
        return Path(self.out or f"runs/{self.run}")

    @property
    def named_parts(self) -> dict[str, tuple[str, ...]]:
        """Field -> the parts that it names, of those that a user may bring (config/lookup.py)."""
        return {"data.stages": self.data.stages, **self.model.named_parts} | {
            "loss.name": (self.loss.name,),
            "trackers": self.trackers,
        }

    def autocast(self, device_type: str) -> "torch.autocast":
        """A context in which torch computes as `precision` says, on a device of type cpu or cuda.

        bf16 autocast where the run asks for it, with parameters in fp32; else a context that changes nothing.
        """
        import torch  # here, so that the command line starts without it

        return torch.autocast(device_type, torch.bfloat16, enabled=self.precision == "bf16")

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**31, f"seed is {self.seed}; it must lie in 0 to 2^31 - 1")
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
        if self.model.uses_text:
            require(
                len(self.data.text_sections) > 0,
                f"model.mode {self.model.mode} reads the report, but data.text_sections is empty: name one, "
                "or use --model.mode image",
            )
