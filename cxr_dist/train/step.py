"""The computation of one optimizer step over a rank's lanes.

All random numbers (jitter, mixup, dropout) follow from (seed, epoch, step, lane, draw), so that a lane computes the
same on any rank. Only the order of the sum over lanes depends on the world size, and not even that with `exact_sums`.
The host does not wait for the device to finish a step: it queues the whole step and then reads the flags that were
reduced before the first forward pass. On CUDA it is therefore at most one step ahead.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import betaincinv

from cxr_dist.config.run import Config
from cxr_dist.data.augment import jitter
from cxr_dist.data.batch import Batch
from cxr_dist.data.plan import augmentation_key
from cxr_dist.data.random import hash64, permutation, uniform
from cxr_dist.data.transfer import HostCopy, to_device
from cxr_dist.data.views import image_keys, partner_images
from cxr_dist.distributed.engine import Backend
from cxr_dist.distributed.lane_sum import sum_of_lanes
from cxr_dist.distributed.reduce import sum_over_ranks
from cxr_dist.distributed.watch.progress import enter
from cxr_dist.model.classifier import Encoders
from cxr_dist.model.inputs import Inputs
from cxr_dist.model.losses import ClassificationLoss
from cxr_dist.train.batchnorm import LaneStatistics

_MIXUP, _MIXUP_PARTNER, DROPOUT = 11, 12, 13  # first words of the hash keys
_DTYPES = {"fp32": torch.float32, "bf16": torch.float32, "fp64": torch.float64}


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """A micro-batch on the device, after augmentation and mixup."""

    inputs: Inputs
    targets: torch.Tensor  # float [b, C]
    known: torch.Tensor  # float [b, C]


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """The results of one step."""

    loss: torch.Tensor
    """This rank's share of the loss, which is the sum over ranks."""
    numbers: HostCopy
    """The norm of the gradient, then the losses of this rank's lanes. Reading them waits for the step."""
    stop_requested: bool
    """Whether any rank was asked to stop; the same on all ranks."""
    num_replaced: int
    """Number of damaged samples that were replaced in this step, summed over ranks."""
    values: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Further scalars for the log by name, the same on all ranks. Reading them waits for the step."""

    @property
    def gradient_norm(self) -> float:
        """Norm before clipping, the same on all ranks; not finite if the update was skipped. Waits for the step."""
        return self.numbers.read()[0]

    @property
    def lanes_finite(self) -> list[bool]:
        """Whether the loss of each of this rank's lanes is finite. Waits for the step."""
        return [math.isfinite(loss) for loss in self.numbers.read()[1:]]


class TrainStep:
    """Callable that updates the model once from the micro-batches of a step (all ranks).

    The update is skipped on all ranks if a loss or the norm of the gradient is not finite.
    """

    def __init__(
        self, config: Config, backend: Backend, loss: ClassificationLoss, num_classes: int, lanes: range
    ) -> None:
        self.config, self.backend, self.num_classes, self.lanes = config, backend, num_classes, lanes
        weights = None if loss.class_weights is None else loss.class_weights.to(backend.device)
        self.loss = dataclasses.replace(loss, class_weights=weights)
        assert isinstance(backend.module, Encoders)
        self.levels = backend.module.levels
        self.dtype = _DTYPES[config.precision]
        self.statistics = LaneStatistics(backend.module, config.data.num_lanes, as_tree=config.exact_sums)

    def __call__(self, step: int, epoch: int, batches: list[Batch], stop: bool) -> StepResult:
        """Forward and backward passes over this rank's lanes, then one update. `epoch` counts from 0."""
        numbered = zip(self.lanes, batches, strict=True)
        prepared = [self.prepared(step, epoch, lane, batch) for lane, batch in numbered]
        num_replaced = sum(len(batch.replaced) for batch in batches)
        denominator, flags = self.totals(prepared, [float(stop), float(num_replaced)])
        self.statistics.start()
        lanes = zip(self.lanes, prepared, strict=True)
        losses = [self.lane(step, lane, batch, denominator) for lane, batch in lanes]
        enter("update")
        norm = self.backend.update()
        self.statistics.finish(keep=norm.isfinite())
        self.backend.average(norm)
        numbers = HostCopy(torch.stack([norm.double(), *(loss.double() for loss in losses)]))
        stopping, replaced = flags.read()
        loss = self.summed(losses)
        return StepResult(loss=loss, numbers=numbers, stop_requested=stopping > 0, num_replaced=int(replaced))

    def totals(self, batches: list[MicroBatch], flags: list[float]) -> tuple[torch.Tensor, HostCopy]:
        """The denominator of the loss and the flags, summed over ranks in one message (all ranks)."""
        weights = [self.loss.weight_sum(each.targets, each.known).double() for each in batches]
        own = to_device(torch.tensor(flags, dtype=torch.float64), self.backend.device)
        summed = torch.cat([self.summed(weights)[None], own])
        summed = sum_over_ranks(summed, as_tree=self.config.exact_sums)
        return summed[0].clamp_min(1e-12).to(self.dtype), HostCopy(summed[1:])

    def summed(self, scalars: list[torch.Tensor]) -> torch.Tensor:
        """The sum of scalars of this rank's lanes."""
        return sum_of_lanes(scalars) if self.config.exact_sums else torch.stack(scalars).sum()

    def lane(self, step: int, lane: int, batch: MicroBatch, denominator: torch.Tensor) -> torch.Tensor:
        """Forward and backward pass of one micro-batch; returns its share of the loss, a scalar.

        A loss that is not finite makes its whole gradient NaN. The norm of the summed gradient thus shows on all ranks,
        before the update, whether any loss or gradient was not finite.
        """
        torch.manual_seed(int(hash64(DROPOUT, self.config.seed, step, lane)) >> 1)
        with self.backend.accumulate(is_last=lane == self.lanes[-1]):
            logits = self.backend.forward(*batch.inputs)
            loss = self.loss.sums(logits, batch.targets, batch.known) / denominator
            self.backend.backward(loss * torch.where(loss.isfinite(), 1.0, torch.nan))
        self.statistics.add()
        return loss.detach()

    def prepared(self, step: int, epoch: int, lane: int, batch: Batch) -> MicroBatch:
        """A micro-batch moved to the device, normalised, jittered and, from its epoch on, mixed."""
        data, table = self.config.data, None if batch.view_rows is None else batch.view_rows.numpy()
        keys = image_keys(augmentation_key(self.config.seed, epoch, batch.sample_ids.numpy()), table)
        batch = batch.to(self.backend.device)
        images = None
        if batch.images is not None:
            images = self.levels.normalise(batch.images, self.dtype)
            images = jitter(images, keys, data.brightness / self.levels.deviation, data.contrast)
        targets, known = self.loss.targets(batch.labels, self.num_classes)
        mixed = self.mix(step, epoch, lane, images, table, targets.to(self.dtype), known.to(self.dtype))
        return MicroBatch(inputs=Inputs.of(batch, mixed[0]), targets=mixed[1], known=mixed[2])

    def mix(
        self,
        step: int,
        epoch: int,
        lane: int,
        images: torch.Tensor | None,
        table: NDArray[np.int64] | None,
        targets: torch.Tensor,
        known: torch.Tensor,
    ) -> tuple[torch.Tensor | None, torch.Tensor, torch.Tensor]:
        """Mixup (Zhang et al. 2018) of images and labels within a lane; returns images, targets and known labels.

        The larger weight is that of the sample whose report is used, so that text and labels agree. Each image of a
        study (`table` is Batch.view_rows on the host) is mixed with an image of the partner study (views.py).
        """
        train = self.config.train
        if images is None or train.mixup_alpha == 0 or epoch + 1 < train.mixup_from_epoch:
            return images, targets, known
        u = float(uniform(_MIXUP, self.config.seed, step, lane))
        share = float(betaincinv(train.mixup_alpha, train.mixup_alpha, u))
        share = max(share, 1.0 - share)
        order = permutation(len(targets), _MIXUP_PARTNER, self.config.seed, step, lane)
        partner = to_device(torch.from_numpy(order), targets.device)
        both_known = known * known[partner]
        mixed = torch.lerp(targets[partner], targets, share) * both_known
        partners = partner
        if table is not None:
            partners = to_device(torch.from_numpy(partner_images(order, table)), images.device)
        return torch.lerp(images[partners], images, share), mixed, both_known
