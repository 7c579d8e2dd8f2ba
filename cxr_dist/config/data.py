"""The section `data` of a run's configuration: what is read, in which batches, and how it is augmented."""

from dataclasses import dataclass
from typing import Literal

from cxr_dist.errors import require


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
    MODULE:NAME or FILE.py:NAME, as data/own_stages.py says."""
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
        require(
            "?" not in address and "@" not in address.partition("/")[0],
            "data.shards is a URL with a query or a user name: the run folder and the job's log would keep it. Give "
            "credentials in the environment, as fsspec's documentation of that kind of URL says",
        )
        require(self.stage_gib >= 0, f"data.stage_gib is {self.stage_gib}; it must be 0 or more")
        require(self.global_batch >= 1, f"data.global_batch is {self.global_batch}; it must be at least 1")
        if self.micro_batch != "auto":
            require(self.micro_batch >= 1, f"data.micro_batch is {self.micro_batch}; it must be at least 1")
            require(
                self.global_batch % self.micro_batch == 0,
                f"data.global_batch {self.global_batch} is not a multiple of data.micro_batch {self.micro_batch}: "
                f"choose e.g. {max(1, round(self.global_batch / self.micro_batch)) * self.micro_batch}",
            )
        require(self.workers >= 0, f"data.workers is {self.workers}; it must be 0 or more")
        require(self.image_size >= 32, f"data.image_size is {self.image_size}; it must be at least 32 pixels")
        require(
            0 <= self.sampling_temper <= 1, f"data.sampling_temper is {self.sampling_temper}; expected 0 to 1"
        )
        require(self.max_tokens >= 8, f"data.max_tokens is {self.max_tokens}; it must be at least 8")
        require(self.max_bad_samples >= 0, "data.max_bad_samples must be 0 or more")
        require(self.evaluation_batch >= 1, "data.evaluation_batch must be at least 1")
        require(self.shuffle_shards >= 1, "data.shuffle_shards must be at least 1")
        require(0 <= self.flip_probability <= 1, "data.flip_probability must lie in 0 to 1")

    @property
    def num_lanes(self) -> int:
        """K = global batch / micro-batch, once that is a number."""
        assert self.micro_batch != "auto", "train/memory/settle.py comes first"
        return self.global_batch // self.micro_batch
