"""The engine for DistributedDataParallel, wrapped by Accelerate; on a single rank the model is not wrapped.

Each rank holds all parameters and moments, so that a checkpoint needs no communication.
"""

import contextlib
import functools
import math
import warnings
from typing import Any

import torch
from torch import nn

from cxr_dist.config.run import Config
from cxr_dist.distributed.engine import RAW, RAW_BUFFER, Backend, Tensors
from cxr_dist.distributed.lane_sum import LaneSum, sum_bucket


class DataParallel(Backend):
    """Every rank has the whole model and optimizer; the last backward pass of a step sums gradients over ranks."""

    _optimizer: torch.optim.Optimizer | None = None
    _is_last = True  # whether the present micro-batch is the step's last one

    @functools.cached_property
    def _lanes(self) -> LaneSum:
        """Adds the gradients of this rank's lanes, with exact_sums."""
        return LaneSum()

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer over all parameters; it skips frozen ones, which have no gradient."""
        if self._optimizer is None:
            self._optimizer = self.new_optimizer([{"params": list(self.module.parameters()), "fused": True}])
        return self._optimizer

    def prepare(self) -> None:
        """Wrap the model for the parameters that need gradients now.

        DDP's reducer handles only the parameters that need gradients when it is built. A reducer from before an
        unfreezing would hang or leave gradients unsummed.
        """
        alone = self.world.world_size == 1
        # torch 2.15 has renamed broadcast_buffers, and accelerate 1.15 cannot pass the new name.
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
            self._wrapped = self.module if alone else _accelerator(self.config).prepare_model(self.module)
        if not alone:
            if self.config.exact_sums:
                self._wrapped.register_comm_hook(self._lanes, sum_bucket)
            _lay_out_buckets(self._wrapped)
        if self._average is None:
            self._start_average(list(self.module.parameters()))
        else:  # wrapping again replaces the buffers
            self._average.weights = [*self.module.parameters(), *self._buffers().values()]

    def accumulate(self, *, is_last: bool) -> contextlib.AbstractContextManager[None]:
        """Sum gradients over ranks only in the step's last micro-batch."""
        self._is_last = is_last
        wait = self.world.world_size > 1 and not is_last
        return self._wrapped.no_sync() if wait else contextlib.nullcontext()

    def backward(self, loss: torch.Tensor) -> None:
        """Multiply by the world size, because DDP averages over ranks and the sum is wanted."""
        if self.config.exact_sums:
            self._backward_of_lane(loss)
        else:
            (loss * self.world.world_size).backward()  # type: ignore[no-untyped-call]

    def _backward_of_lane(self, loss: torch.Tensor) -> None:
        """Add to the tree of lanes. With several ranks, DDP's communication hook does so in the last lane."""
        loss.backward()  # type: ignore[no-untyped-call]
        lanes = self._lanes
        gradients = {p: p.grad for p in self.module.parameters() if p.grad is not None}
        if not self._is_last:
            for parameter in gradients:
                parameter.grad = None
            lanes.add(gradients)
            return
        if self.world.world_size == 1:
            lanes.complete(list(gradients), list(gradients.values()))
        for parameter, gradient in lanes.rest().items():
            parameter.grad = gradient

    def update(self) -> torch.Tensor:
        """Clip and update without waiting for the device; all ranks have the same norm and so decide alike.

        As in torch's GradScaler, `found_inf` tells a fused optimizer to skip the update.
        """
        parameters = [p for p in self.module.parameters() if p.grad is not None]
        norm = nn.utils.clip_grad_norm_(parameters, self.config.optim.clip_norm or math.inf)
        optimizer = self.optimizer
        for group in optimizer.param_groups:
            group["lr"] = self.learning_rate
        optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return norm

    def whole_model(self) -> contextlib.AbstractContextManager[None]:
        """Put the averages in the place of the training weights; DDP's model is always whole."""
        return self._average.swapped() if self._average else contextlib.nullcontext()

    def model_tensors(self) -> Tensors:
        """Return the tensors themselves, not copies."""
        names = [*(name for name, _ in self.module.named_parameters()), *self._buffers()]
        averages = zip(names, self._average.averages, strict=True) if self._average else ()
        return self.module.state_dict() | dict(averages)

    def optimizer_tensors(self) -> Tensors:
        """Return the tensors themselves, not copies."""
        tensors: Tensors = {}
        for name, parameter in self.module.named_parameters():
            state = self.optimizer.state.get(parameter, {})
            tensors |= {f"{moment}/{name}": value for moment, value in state.items()}
            if self._average and parameter.requires_grad:
                tensors[f"{RAW}/{name}"] = parameter.detach()
        buffers = self._buffers() if self._average else {}
        return tensors | {f"{RAW_BUFFER}/{name}": buffer for name, buffer in buffers.items()}

    @torch.no_grad()
    def _set_weight(self, name: str, value: torch.Tensor) -> None:
        self.module.get_parameter(name).copy_(value)

    def _restore_moments(self, moments: Tensors) -> None:
        """Put moments and step counts on the device and in the memory layout of their parameter, as fused Adam does."""
        parameters = dict(self.module.named_parameters())
        for key, value in moments.items():
            moment, name = key.split("/", 1)
            like = parameters[name] if value.shape == parameters[name].shape else value
            place = torch.empty_like(like, dtype=value.dtype, device=parameters[name].device)
            self.optimizer.state[parameters[name]][moment] = place.copy_(value)


def _lay_out_buckets(wrapped: Any) -> None:
    """Make DDP rebuild its buckets now, by a backward pass of zero gradients (all ranks).

    DDP rebuilds them after its first backward pass in the order of the gradients, and a gradient's place in a bucket
    determines the order in which three or more ranks are summed. Without this, the first step of a resumed run would
    differ in its last bits from the same step of an uninterrupted run.
    """
    trained = [parameter for parameter in wrapped.module.parameters() if parameter.requires_grad]
    wrapped.reducer.prepare_for_backward([])
    torch.stack([parameter.sum() * 0 for parameter in trained]).sum().backward()  # type: ignore[no-untyped-call]
    for parameter in trained:
        parameter.grad = None


def _accelerator(config: Config) -> Any:
    from accelerate import Accelerator
    from accelerate.utils import DDPCommunicationHookType, DistributedDataParallelKwargs

    hooks = {"none": DDPCommunicationHookType.NO, "bf16": DDPCommunicationHookType.BF16}
    # No broadcast of buffers: train/batchnorm.py averages the running statistics over all lanes.
    # With exact_sums, gradients lie outside of the buckets, as on a single rank, because on CUDA the order in which
    # their norm is added up depends on where they start.
    keywords = DistributedDataParallelKwargs(
        broadcast_buffers=False,
        gradient_as_bucket_view=not config.exact_sums,
        bucket_cap_mb=config.ddp.bucket_cap_mb,
        comm_hook=hooks[config.ddp.comm_hook],
    )
    return Accelerator(mixed_precision="no", cpu=not torch.cuda.is_available(), kwargs_handlers=[keywords])
