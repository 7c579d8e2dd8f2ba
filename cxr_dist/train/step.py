"""One optimizer step over a rank's lanes: the arithmetic, and nothing that happens once in a while.

All that is random (jitter, mixup, dropout) follows from (seed, epoch, step, lane, draw), so a lane computes
the same wherever it runs; only the order of a sum over lanes differs between world sizes.
"""

import math
from dataclasses import dataclass

import torch
from scipy.special import betaincinv

from cxr_dist.config import Config
from cxr_dist.data.augment import jitter
from cxr_dist.data.batch import Batch
from cxr_dist.data.plan import augmentation_key
from cxr_dist.data.random import hash64, permutation, uniform
from cxr_dist.distributed.backend import Backend
from cxr_dist.distributed.reduce import sum_over_ranks
from cxr_dist.model.image import GREY_DEVIATION, normalise
from cxr_dist.model.losses import ClassificationLoss
from cxr_dist.train.batchnorm import LaneStatistics

_MIXUP, _MIXUP_PARTNER, _DROPOUT = 11, 12, 13  # first words of hashes
_DTYPES = {"fp32": torch.float32, "bf16": torch.float32, "fp64": torch.float64}


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """A micro-batch on the device, augmented and mixed."""

    images: torch.Tensor | None  # float [b, 1, H, W], normalised
    tokens: torch.Tensor | None
    attention_mask: torch.Tensor | None
    targets: torch.Tensor  # float [b, C]
    known: torch.Tensor  # float [b, C]


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What one step computed, the same on all ranks."""

    loss: torch.Tensor
    """This rank's part of the loss; its sum over ranks is the loss."""
    gradient_norm: float
    """Total norm before clipping; not finite where the update was left out."""
    stop_requested: bool
    """Whether any rank asked to stop."""
    num_replaced: int
    """Damaged samples that were replaced in this step, on all ranks together."""


class TrainStep:
    """Callable: micro-batches of a step in, one update of the model out (all ranks)."""

    def __init__(
        self, config: Config, backend: Backend, loss: ClassificationLoss, num_classes: int, lanes: range
    ) -> None:
        self.config, self.backend, self.loss = config, backend, loss
        self.num_classes, self.lanes = num_classes, lanes
        self.dtype = _DTYPES[config.precision]
        self.statistics = LaneStatistics(backend.module, config.data.num_lanes)

    def __call__(self, step: int, epoch: int, batches: list[Batch], stop: bool) -> StepResult:
        """Forward and backward over this rank's lanes, one update. `epoch` counts from 0."""
        lanes = list(zip(self.lanes, batches, strict=True))
        inputs = [self.inputs(step, epoch, lane, batch) for lane, batch in lanes]
        weight = sum((self.loss.weight_sum(i.targets, i.known).double() for i in inputs), torch.zeros(()))
        flags = [float(stop), float(sum(len(batch.replaced) for batch in batches))]
        totals = torch.tensor([0.0, *flags], dtype=torch.float64, device=self.backend.device)
        totals[0] = weight
        total_weight, stopping, num_replaced = sum_over_ranks(totals)
        denominator = total_weight.clamp_min(1e-12).to(self.dtype)

        loss = torch.zeros((), dtype=self.dtype, device=self.backend.device)
        self.statistics.start()
        for (lane, _), item in zip(lanes, inputs, strict=True):
            torch.manual_seed(int(hash64(_DROPOUT, self.config.seed, step, lane)) >> 1)
            with self.backend.accumulate(is_last=lane == self.lanes[-1]):
                logits = self.backend.forward(item.images, item.tokens, item.attention_mask)
                part = self.loss.sums(logits, item.targets, item.known) / denominator
                self.backend.backward(part)
            self.statistics.add()
            loss += part.detach()

        norm = self.backend.update()
        self.statistics.finish(keep=math.isfinite(norm))
        return StepResult(
            loss=loss,
            gradient_norm=norm,
            stop_requested=bool(stopping > 0),
            num_replaced=int(num_replaced),
        )

    def inputs(self, step: int, epoch: int, lane: int, batch: Batch) -> Inputs:
        """A micro-batch moved to the device, normalised, jittered and, from its epoch on, mixed."""
        data, keys = self.config.data, augmentation_key(self.config.seed, epoch, batch.sample_ids.numpy())
        batch = batch.to(self.backend.device)
        images = None
        if batch.images is not None:
            images = normalise(batch.images, self.dtype)
            images = jitter(images, keys, data.brightness / GREY_DEVIATION, data.contrast)
        targets, known = self.loss.targets(batch.labels, self.num_classes)
        mixed = self.mix(step, epoch, lane, images, targets.to(self.dtype), known.to(self.dtype))
        return Inputs(
            images=mixed[0],
            tokens=batch.tokens,
            attention_mask=batch.attention_mask,
            targets=mixed[1],
            known=mixed[2],
        )

    def mix(
        self,
        step: int,
        epoch: int,
        lane: int,
        images: torch.Tensor | None,
        targets: torch.Tensor,
        known: torch.Tensor,
    ) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]:
        """Mixup (Zhang et al. 2018) inside a lane, on films and labels.

        The larger share stays with the sample whose report is read, so that text and label agree.
        """
        train = self.config.train
        if images is None or train.mixup_alpha == 0 or epoch + 1 < train.mixup_from_epoch:
            return images, targets, known
        u = float(uniform(_MIXUP, self.config.seed, step, lane))
        share = float(betaincinv(train.mixup_alpha, train.mixup_alpha, u))
        share = max(share, 1.0 - share)
        order = permutation(len(targets), _MIXUP_PARTNER, self.config.seed, step, lane)
        partner = torch.from_numpy(order).to(targets.device)
        both_known = known * known[partner]
        mixed = torch.lerp(targets[partner], targets, share) * both_known
        return torch.lerp(images[partner], images, share), mixed, both_known
