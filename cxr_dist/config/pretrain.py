"""The section `pretrain` of a run's configuration: contrastive pretraining, with `model.mode contrastive`."""

from dataclasses import dataclass
from typing import Annotated

from cxr_dist.config.data import DataConfig
from cxr_dist.config.range import Range, check_ranges
from cxr_dist.config.train import TrainConfig
from cxr_dist.errors import UserError


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Contrastive pretraining of an image and a text encoder. Without effect in other modes."""

    temperature: Annotated[float, Range(min=0.01, max=1)] = 0.07
    """Initial temperature, which is learned and stays in 0.01 to 1."""
    sentences: Annotated[int, Range(min=0)] = 1
    """Number of sentences that each draw takes from a report's sections, at random and in their order, as in ConVIRT;
    0: the whole text."""
    same_label: bool = False
    """Besides samples with the same report, do not use samples with the same labels as negatives of each other."""

    def __post_init__(self) -> None:
        check_ranges(self, "pretrain")


def check_contrastive(data: DataConfig, train: TrainConfig, *, compiled: bool) -> None:
    """Raise UserError, with the reason and the way out, for settings that `model.mode contrastive` does not allow."""
    reasons = {
        "--train.mixup-alpha mixes labels, of which there are none; use 0": train.mixup_alpha > 0,
        "--compile compiles the forward pass with and without a gradient, which would draw other dropout masks; leave "
        "it off": compiled,
        "--data.global-batch 1 has no other report to compare with; use at least 2": data.global_batch < 2,
    }
    for reason, applies in reasons.items():
        if applies:
            raise UserError(f"model.mode is contrastive, but {reason}")
