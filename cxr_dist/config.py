"""The typed configuration: frozen, checked when made, saved with each run.

It imports nothing but the standard library, so that the command line starts fast.
All fields can be set as `--section.field-name VALUE`.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cxr_dist.config_optim import LossConfig, OptimConfig
from cxr_dist.distributed.ddp_config import DdpConfig
from cxr_dist.errors import UserError


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is read, in which batches, and how it is augmented."""

    shards: str = ""
    """Folder that `cxr-dist shard` wrote (it holds manifest.json), or its URL, as s3://BUCKET/SHARDS or https://…."""
    stage_dir: str = ""
    """Shards are copied to this folder on the node's own disk before use. Empty: to $SLURM_TMPDIR in a job that has
    it; without it a folder is read where it lies, and a URL is copied to $TMPDIR, else /tmp. `none`: never copied."""
    stage_gib: float = 0.0
    """Most GiB that staged copies take, the least recently used going first; room for shuffle_shards + 1 shards of
    each of the node's lanes avoids copying twice. 0: what the disk has, but for 5% of it."""
    global_batch: int = 64
    """Samples per optimizer step, over all ranks."""
    micro_batch: int | Literal["auto"] = 16
    """Samples per forward pass; global_batch / micro_batch is the number of lanes, which the world size divides.
    `auto`: the largest that fits the device, tried out at the run's first start and kept in its config.yaml."""
    evaluation_batch: int = 32
    """Samples per batch in evaluation; part of what makes metrics identical at any number of ranks."""
    workers: int = 2
    """DataLoader worker processes per rank; 0 reads in the training process."""
    max_bad_samples: int = 0
    """Damaged samples that training may meet and replace by others, each written to bad_samples.jsonl; more of them,
    or with 0 the first, end the run, as does a shard that is missing or cut short. Evaluation never replaces."""
    text_sections: tuple[str, ...] = ("indication", "findings")
    """Report sections that the text encoder sees, in this order. The IMPRESSION usually names the answer."""
    max_tokens: int = 128
    """Reports are cut after this many WordPiece tokens."""
    image_size: int = 224
    """Height and width of the network's input, pixels."""
    sampling: Literal["uniform", "weighted"] = "uniform"
    """`weighted` draws samples by inverse class frequency (systematic resampling)."""
    sampling_temper: float = 1.0
    """Exponent on the inverse class frequency: 0 is uniform, 1 draws all classes equally often."""
    stages: tuple[str, ...] = ()
    """Stages of your own for training samples, after decoding and before augmentation, in this order: each
    MODULE:FUNCTION or FILE.py:FUNCTION, as data/own_stages.py says."""
    shuffle_shards: int = 8
    """A lane's draws are shuffled inside a window of this many shards' worth of draws."""
    rotation_degrees: float = 7.0
    """Augmentation: rotation uniform in ± this many degrees."""
    shift: float = 0.05
    """Augmentation: translation uniform in ± this share of the image side."""
    zoom: float = 0.10
    """Augmentation: scale uniform in 1 ± this."""
    flip_probability: float = 0.0
    """Augmentation: horizontal flip. Off, because reports say left and right, and the heart is on one side."""
    brightness: float = 0.10
    """Augmentation on the device: added grey level, uniform in ± this share of the range."""
    contrast: float = 0.10
    """Augmentation on the device: contrast factor uniform in 1 ± this."""

    def __post_init__(self) -> None:
        address = self.shards.partition("://")[2]
        _require(
            "?" not in address and "@" not in address.partition("/")[0],
            "data.shards is a URL with a query or a user name: the run folder and the job's log would keep it. Give "
            "credentials in the environment, as fsspec's documentation of that kind of URL says",
        )
        _require(self.stage_gib >= 0, f"data.stage_gib is {self.stage_gib}; it must be 0 or more")
        _require(self.global_batch >= 1, f"data.global_batch is {self.global_batch}; it must be at least 1")
        if self.micro_batch != "auto":
            _require(self.micro_batch >= 1, f"data.micro_batch is {self.micro_batch}; it must be at least 1")
            _require(
                self.global_batch % self.micro_batch == 0,
                f"data.global_batch {self.global_batch} is not a multiple of data.micro_batch {self.micro_batch}: "
                f"choose e.g. {max(1, round(self.global_batch / self.micro_batch)) * self.micro_batch}",
            )
        _require(self.workers >= 0, f"data.workers is {self.workers}; it must be 0 or more")
        _require(
            self.image_size >= 32, f"data.image_size is {self.image_size}; it must be at least 32 pixels"
        )
        _require(
            0 <= self.sampling_temper <= 1, f"data.sampling_temper is {self.sampling_temper}; expected 0 to 1"
        )
        _require(self.max_tokens >= 8, f"data.max_tokens is {self.max_tokens}; it must be at least 8")
        _require(self.max_bad_samples >= 0, "data.max_bad_samples must be 0 or more")
        _require(self.evaluation_batch >= 1, "data.evaluation_batch must be at least 1")
        _require(self.shuffle_shards >= 1, "data.shuffle_shards must be at least 1")
        _require(0 <= self.flip_probability <= 1, "data.flip_probability must lie in 0 to 1")

    @property
    def num_lanes(self) -> int:
        """K = global batch / micro-batch, once that is a number."""
        assert self.micro_batch != "auto", "train/micro_batch.py comes first"
        return self.global_batch // self.micro_batch


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network."""

    mode: Literal["image", "text", "fused"] = "fused"
    """What the model sees: the film, the report, or both."""
    image_encoder: Literal["densenet121", "densenet-narrow"] = "densenet121"
    """`densenet-narrow` is the same torchvision class with few, thin layers, for the demo and tests."""
    text_encoder: str = "emilyalsentzer/Bio_ClinicalBERT"
    """A BERT-like model: a name in the weights bundle, a local folder, or `tiny` (made from scratch)."""
    fusion: Literal["tokens", "pooled"] = "tokens"
    """`tokens`: report tokens attend to image tokens. `pooled`: one query, one key, as in the original."""
    fusion_dim: int = 512
    """Width of the shared space in which text and image meet."""
    fusion_heads: int = 8
    """Attention heads in the fusion."""
    fusion_dropout: float = 0.1
    """Dropout on the attended features."""
    image_dropout: float = 0.0
    """Dropout after each dense layer of the image encoder; its published weights were trained without."""
    head_dropout: tuple[float, float] = (0.5, 0.3)
    """Dropout after the first and the second hidden layer of the head (1024 -> 512 -> 256 -> classes)."""
    pretrained: bool = True
    """Start from the bundle's weights. `false` starts the encoders from random numbers."""
    weights: str = ""
    """The bundle that `cxr-dist fetch` made; empty: $CXR_DIST_WEIGHTS, else ~/.cache/cxr_dist/weights."""
    gradient_checkpointing: bool | Literal["auto", "text", "image", "all"] = False
    """Recompute activations in the backward pass, for less memory and more time: `text`, or true, the text encoder's
    layer by layer; `image` each dense layer of the image encoder up to its 3×3 convolution; `all` both. `auto`: at each
    start the least of these with which a step fits the device, as `cxr-dist plan` predicts it."""
    sync_batchnorm: bool = False
    """BatchNorm over the micro-batches that all ranks compute at the same moment, where one is too small for
    statistics of its own. The price: results then depend on the world size. A single rank has plain BatchNorm."""

    def __post_init__(self) -> None:
        _require(
            self.fusion_dim % self.fusion_heads == 0,
            f"model.fusion_dim {self.fusion_dim} is not a multiple of model.fusion_heads {self.fusion_heads}",
        )
        for rate in (self.image_dropout, self.fusion_dropout, *self.head_dropout):
            _require(0 <= rate < 1, f"dropout rate {rate} is outside [0, 1)")

    @property
    def uses_image(self) -> bool:
        """Whether the film enters the model."""
        return self.mode in ("image", "fused")

    @property
    def checkpoints_image(self) -> bool:
        """Whether the image encoder's activations are computed again in the backward pass."""
        return self.uses_image and self.gradient_checkpointing in ("image", "all")

    @property
    def checkpoints_text(self) -> bool:
        """Whether the text encoder's activations are computed again in the backward pass."""
        return self.uses_text and self.gradient_checkpointing in (True, "text", "all")

    @property
    def uses_text(self) -> bool:
        """Whether the report enters the model."""
        return self.mode in ("text", "fused")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, and what happens once in a while."""

    epochs: int = 20
    """Passes over the training split (steps per epoch = samples // global batch)."""
    max_steps: int = 0
    """Stop after this many optimizer steps; 0: no limit but epochs. The schedule spans the shorter of both."""
    max_minutes: float = 0
    """Save and end cleanly after this many minutes of this job; 0: no limit."""
    save_every: int = 0
    """Optimizer steps between checkpoints; 0: at each evaluation."""
    eval_every: int = 0
    """Optimizer steps between validations; 0: at the end of each epoch."""
    log_every: int = 10
    """Optimizer steps between lines of metrics.jsonl."""
    profile: str = ""
    """START:STOP, as 20:25: rank 0 records the steps of this start after the 20th up to the 25th, writes a trace for
    Perfetto or TensorBoard into RUN_DIR/profile and prints the ten largest costs. Changes no number. Empty: never."""
    keep_checkpoints: int = 2
    """Newest checkpoints kept besides the best one."""
    early_stopping_patience: int = 5
    """Evaluations without a better mean validation AUC before training ends; 0: never."""
    freeze_epochs: int = 0
    """Encoders are frozen for the first so many epochs."""
    mixup_alpha: float = 0.0
    """Mixup's Beta(α, α) on image and label; 0: off."""
    mixup_from_epoch: int = 3
    """First epoch (counted from 1) with mixup."""
    max_nonfinite_steps: int = 3
    """Updates left out in a row, because loss or gradient were not finite, before the run stops."""
    timeout_minutes: float = 10.0
    """The watchdog ends the job when no rank gets ahead for so long, or one does not join within it. A rank that
    died ends it at once, one that is silent within a minute."""

    def __post_init__(self) -> None:
        _require(self.epochs >= 1, f"train.epochs is {self.epochs}; it must be at least 1")
        for name in ("max_steps", "save_every", "eval_every", "early_stopping_patience", "freeze_epochs"):
            _require(getattr(self, name) >= 0, f"train.{name} must be 0 or more")
        _require(self.log_every >= 1, "train.log_every must be at least 1")
        _require(self.keep_checkpoints >= 1, "train.keep_checkpoints must be at least 1")
        _require(self.mixup_alpha >= 0, "train.mixup_alpha must be 0 or more")
        _require(self.timeout_minutes > 0, "train.timeout_minutes must be positive")
        _require(
            not self.profile or bool(re.fullmatch(r"\d{1,9}:\d{1,9}", self.profile) and self.profiled_steps),
            f"train.profile is {self.profile!r}; expected START:STOP with START below STOP, as 20:25: the steps after "
            "this start's 20th, up to and with its 25th",
        )

    @property
    def profiled_steps(self) -> range:
        """Steps of a start that are recorded, counted from 0; empty for none."""
        start, _, stop = self.profile.partition(":")
        return range(int(start or 0), int(stop or 0))


@dataclass(frozen=True, kw_only=True)
class Config:
    """One run. Named runs are in runs.py."""

    run: str = "enhanced"
    """Name of the run that these values started from."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    precision: Literal["fp32", "bf16", "fp64"] = "fp32"
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
    out: str = ""
    """The run folder; empty: runs/NAME."""

    @property
    def run_dir(self) -> Path:
        """Where the run lives."""
        return Path(self.out or f"runs/{self.run}")

    def __post_init__(self) -> None:
        _require(0 <= self.seed < 2**31, f"seed is {self.seed}; it must lie in 0 to 2^31 - 1")
        _require(
            self.parallel == "ddp" or self.precision != "fp64",
            "DeepSpeed has no fp64: use --parallel ddp, or --precision fp32 or bf16",
        )
        _require(
            self.parallel != "ddp" or not self.deepspeed,
            f"deepspeed is {self.deepspeed!r}, but parallel is ddp: add --parallel zero1, zero2 or zero3",
        )
        _require(
            self.parallel != "zero3" or not self.compile,
            "zero3 gathers parameters layer by layer, which cannot be compiled: leave --compile off, or use ddp, zero1 "
            "or zero2",
        )
        self.ddp.check(self.parallel, self.precision)
        if self.model.uses_text:
            _require(
                len(self.data.text_sections) > 0,
                f"model.mode {self.model.mode} reads the report, but data.text_sections is empty: name one, "
                "or use --model.mode image",
            )
