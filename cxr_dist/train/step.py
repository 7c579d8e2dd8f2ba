"""One optimizer step over a rank's lanes: the arithmetic, and nothing that happens once in a while.

All that is random (jitter, mixup, dropout) follows from (seed, epoch, step, lane, draw), so a lane computes
the same wherever it runs; only the order of a sum over lanes differs between world sizes.

The host never waits for the device to finish a step: it queues the whole step and then reads only the flags that
crossed ranks before the first forward pass. So on CUDA it is at most one step ahead.
"""

import dataclasses
import math
from dataclasses import dataclass

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
from cxr_dist.data.views import as_array, film_keys, partner_films
from cxr_dist.distributed.engine import Backend
from cxr_dist.distributed.reduce import sum_over_ranks
from cxr_dist.distributed.watch.progress import enter
from cxr_dist.model.classifier import Classifier
from cxr_dist.model.inputs import Inputs
from cxr_dist.model.losses import ClassificationLoss
from cxr_dist.train.batchnorm import LaneStatistics

_MIXUP, _MIXUP_PARTNER, _DROPOUT = 11, 12, 13  # first words of hashes
_DTYPES = {"fp32": torch.float32, "bf16": torch.float32, "fp64": torch.float64}


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """A micro-batch on the device, augmented and mixed."""

    inputs: Inputs
    targets: torch.Tensor  # float [b, C]
    known: torch.Tensor  # float [b, C]


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What one step computed."""

    loss: torch.Tensor
    """This rank's part of the loss; its sum over ranks is the loss."""
    numbers: HostCopy
    """The gradient's total norm, then the loss of each of this rank's lanes; `gradient_norm` reads them."""
    stop_requested: bool
    """Whether any rank asked to stop; the same on all ranks."""
    num_replaced: int
    """Damaged samples that were replaced in this step, on all ranks together."""

    @property
    def gradient_norm(self) -> float:
        """Before clipping, the same on all ranks; not finite where the update was left out. Waits for the step."""
        return self.numbers.read()[0]

    @property
    def lanes_finite(self) -> list[bool]:
        """Whether the losses of this rank's lanes are finite. Waits for the step."""
        return [math.isfinite(loss) for loss in self.numbers.read()[1:]]


class TrainStep:
    """Callable: micro-batches of a step in, one update of the model out (all ranks).

    An update is left out, on all ranks, where a loss or the gradient's norm is not finite.
    """

    def __init__(
        self, config: Config, backend: Backend, loss: ClassificationLoss, num_classes: int, lanes: range
    ) -> None:
        self.config, self.backend, self.num_classes, self.lanes = config, backend, num_classes, lanes
        weights = None if loss.class_weights is None else loss.class_weights.to(backend.device)
        self.loss = dataclasses.replace(loss, class_weights=weights)
        assert isinstance(backend.module, Classifier)
        self.levels = backend.module.levels
        self.dtype = _DTYPES[config.precision]
        self.statistics = LaneStatistics(backend.module, config.data.num_lanes)

    def __call__(self, step: int, epoch: int, batches: list[Batch], stop: bool) -> StepResult:
        """Forward and backward over this rank's lanes, one update. `epoch` counts from 0."""
        prepared = [
            self.prepared(step, epoch, lane, batch) for lane, batch in zip(self.lanes, batches, strict=True)
        ]
        num_replaced = sum(len(batch.replaced) for batch in batches)
        denominator, flags = self.totals(prepared, [float(stop), float(num_replaced)])
        self.statistics.start()
        losses = [
            self.lane(step, lane, each, denominator) for lane, each in zip(self.lanes, prepared, strict=True)
        ]
        enter("update")
        norm = self.backend.update()
        self.statistics.finish(keep=norm.isfinite())
        numbers = HostCopy(torch.stack([norm.double(), *(loss.double() for loss in losses)]))
        stopping, replaced = flags.read()
        return StepResult(
            loss=torch.stack(losses).sum(),
            numbers=numbers,
            stop_requested=stopping > 0,
            num_replaced=int(replaced),
        )

    def totals(self, batches: list[MicroBatch], flags: list[float]) -> tuple[torch.Tensor, HostCopy]:
        """What the summed loss is divided by, and the flags: sums over all ranks, in one message (all ranks)."""
        weights = [self.loss.weight_sum(each.targets, each.known).double() for each in batches]
        own = to_device(torch.tensor(flags, dtype=torch.float64), self.backend.device)
        summed = sum_over_ranks(torch.cat([torch.stack(weights).sum()[None], own]))
        return summed[0].clamp_min(1e-12).to(self.dtype), HostCopy(summed[1:])

    def lane(self, step: int, lane: int, batch: MicroBatch, denominator: torch.Tensor) -> torch.Tensor:
        """Forward and backward of one micro-batch; its part of the loss, a scalar.

        A loss that is not finite makes its whole gradient NaN. So the norm speaks for both, and what one rank
        meets reaches the others with the sum of gradients, before the update.
        """
        torch.manual_seed(int(hash64(_DROPOUT, self.config.seed, step, lane)) >> 1)
        with self.backend.accumulate(is_last=lane == self.lanes[-1]):
            logits = self.backend.forward(*batch.inputs)
            loss = self.loss.sums(logits, batch.targets, batch.known) / denominator
            self.backend.backward(loss * torch.where(loss.isfinite(), 1.0, torch.nan))
        self.statistics.add()
        return loss.detach()

    def prepared(self, step: int, epoch: int, lane: int, batch: Batch) -> MicroBatch:
        """A micro-batch moved to the device, normalised, jittered and, from its epoch on, mixed."""
        data, table = self.config.data, as_array(batch.view_rows)
        keys = film_keys(augmentation_key(self.config.seed, epoch, batch.sample_ids.numpy()), table)
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
        """Mixup (Zhang et al. 2018) inside a lane, on films and labels.

        The larger share stays with the sample whose report is read, so that text and label agree. Each film of a
        study (`table`: Batch.view_rows on the host) is mixed with one of its partner's (views.py).
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
        films = partner
        if table is not None:
            films = to_device(torch.from_numpy(partner_films(order, table)), images.device)
        return torch.lerp(images[films], images, share), mixed, both_known
