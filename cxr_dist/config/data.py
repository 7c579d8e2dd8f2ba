"""The section `data` of a run's configuration: the shards, the batches, sampling and augmentation."""

from dataclasses import dataclass
from typing import Annotated, Literal

from cxr_dist.config.range import Range, check_ranges
from cxr_dist.errors import require


def is_power_of_two(number: int) -> bool:
    """Whether a positive integer is 1, 2, 4, 8, …."""
    return number & (number - 1) == 0


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The shards, the batches, sampling and augmentation."""

    shards: str = ""
    """Folder that `cxr-dist shard` wrote (with manifest.json), or its URL, such as s3://BUCKET/SHARDS or https://…."""
    fold: Annotated[int | None, Range(min=0)] = None
    """Test fold, 0 to K - 1, for shards whose recipe has `split: {by: patient, folds: K}`. The next fold is validation
    (after the last one, fold 0), and the others are training."""
    stage_dir: str = ""
    """Folder on the node's own disk to which shards are copied before they are read. If empty, $SLURM_TMPDIR in a job
    that has it; elsewhere a folder is read in place and a URL is copied to $TMPDIR, else /tmp. `none`: no copies."""
    stage_gib: Annotated[float, Range(min=0)] = 0.0
    """Maximum size of the copies in GiB; the least recently used copy is deleted first. Space for shuffle_shards + 1
    shards of each of the node's lanes avoids copying a shard twice. 0: all free space except 5% of the disk."""
    global_batch: Annotated[int, Range(min=1)] = 64
    """Number of samples per optimizer step over all ranks, a multiple of `micro_batch`."""
    micro_batch: Annotated[int | Literal["auto"], Range(min=1)] = 16
    """Number of samples per forward pass. The world size must divide global_batch / micro_batch, the number of lanes.
    `auto`: the largest that fits the device, determined at the first start of the run and saved in its config.yaml."""
    evaluation_batch: Annotated[int, Range(min=1)] = 32
    """Number of samples per batch in evaluation, at least 1. Independent of the world size, as are the metrics."""
    workers: Annotated[int, Range(min=0)] = 2
    """Number of DataLoader worker processes per rank; 0: samples are read in the training process."""
    max_bad_samples: Annotated[int, Range(min=0)] = 0
    """Number of damaged samples that training may replace by others and write to bad_samples.jsonl. One more ends the
    run, as does a missing or truncated shard. Evaluation never replaces a sample."""
    text_sections: tuple[str, ...] = ("indication", "findings")
    """Report sections that the text encoder sees, in this order. The impression usually states the label."""
    max_tokens: Annotated[int, Range(min=8)] = 128
    """Maximum number of WordPiece tokens of a report, at least 8; longer reports are truncated."""
    image_size: Annotated[int, Range(min=32)] = 224
    """Height and width of the network's input in pixels, at least 32."""
    sampling: Literal["uniform", "weighted"] = "uniform"
    """`weighted` draws samples by inverse class frequency (systematic resampling)."""
    sampling_temper: Annotated[float, Range(min=0, max=1)] = 1.0
    """Exponent of the inverse class frequency, 0 (uniform) to 1 (all classes are drawn equally often)."""
    stages: tuple[str, ...] = ()
    """Your own stages for training samples between decoding and augmentation, in this order, each as MODULE:NAME or
    FILE.py:NAME, described in data/own_stages.py."""
    shuffle_shards: Annotated[int, Range(min=1)] = 8
    """Number of shards in the window within which a lane's draws are shuffled, at least 1."""
    rotation_degrees: Annotated[float, Range(min=0, max=180)] = 7.0
    """Augmentation: maximum rotation in degrees, in both directions."""
    shift: Annotated[float, Range(min=0, max=1)] = 0.05
    """Augmentation: maximum translation in both directions, as a fraction of the image side."""
    zoom: Annotated[float, Range(min=0, below=1)] = 0.10
    """Augmentation: maximum relative change of the scale, which is uniform in 1 ± this value."""
    flip_probability: Annotated[float, Range(min=0, max=1)] = 0.0
    """Augmentation: probability of a horizontal flip, 0 to 1. Off, because reports mention left and right."""
    brightness: Annotated[float, Range(min=0, max=1)] = 0.10
    """Augmentation on the device: maximum change of the grey level, as a fraction of its range."""
    contrast: Annotated[float, Range(min=0, max=1)] = 0.10
    """Augmentation on the device: maximum relative change of the contrast, which is uniform in 1 ± this value."""

    def __post_init__(self) -> None:
        address = self.shards.partition("://")[2]
        require(
            "?" not in address and "@" not in address.partition("/")[0],
            "data.shards is a URL with a query or a user name, which would be written to the run folder and the job's "
            "log: set credentials in the environment, as fsspec's documentation of this type of URL describes",
        )
        check_ranges(self, "data")
        require(
            len(set(self.text_sections)) == len(self.text_sections),
            f"data.text_sections names a section twice: {', '.join(self.text_sections)}",
        )
        if self.micro_batch != "auto":
            require(
                self.global_batch % self.micro_batch == 0,
                f"data.global_batch {self.global_batch} is not a multiple of data.micro_batch {self.micro_batch}: "
                f"choose e.g. {max(1, round(self.global_batch / self.micro_batch)) * self.micro_batch}",
            )

    @property
    def num_lanes(self) -> int:
        """K = global batch / micro-batch; `micro_batch` must be a number."""
        assert self.micro_batch != "auto", "call train/memory/settle.py first"
        return self.global_batch // self.micro_batch
