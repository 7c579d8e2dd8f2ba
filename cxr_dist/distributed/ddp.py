"""DistributedDataParallel, wrapped by Accelerate; the bare model in a world of one.

Each rank holds all parameters and moments, so a checkpoint's tensors are just read off.
"""

import contextlib
import math
import warnings
from typing import Any

import torch
from torch import nn

from cxr_dist.config.ddp import DdpConfig
from cxr_dist.distributed.engine import RAW, Backend, Tensors


class DataParallel(Backend):
    """Every rank has the whole model and optimizer; gradients are summed in the last micro-batch's backward."""

    _optimizer: torch.optim.Optimizer | None = None

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """Over all parameters; frozen ones have no gradient and are passed over."""
        if self._optimizer is None:
            self._optimizer = self.new_optimizer([{"params": list(self.module.parameters()), "fused": True}])
        return self._optimizer

    def prepare(self) -> None:
        """Wrap for the parameters that need gradients now.

        DDP's reducer is built for the parameters that need gradients at that moment; one built before an
        unfreezing would hang or leave gradients unsummed.
        """
        alone = self.world.world_size == 1
        # torch 2.15 asks for another name of broadcast_buffers, which accelerate 1.15 cannot pass on.
        with warnings.catch_warnings(action="ignore", category=FutureWarning):
            self._wrapped = self.module if alone else _accelerator(self.config.ddp).prepare_model(self.module)
        if not alone:
            _lay_out_buckets(self._wrapped)
        if self._average is None:
            self._start_average(list(self.module.parameters()))

    def accumulate(self, *, is_last: bool) -> contextlib.AbstractContextManager[Any]:
        """Gradients cross ranks only in the step's last micro-batch."""
        wait = self.world.world_size > 1 and not is_last
        return self._wrapped.no_sync() if wait else contextlib.nullcontext()

    def backward(self, loss: torch.Tensor) -> None:
        """DDP averages over ranks, and we want the sum."""
        (loss * self.world.world_size).backward()  # type: ignore[no-untyped-call]

    def update(self) -> torch.Tensor:
        """A NaN of one rank is in every rank's summed gradient, so that all decide alike, each on its device.

        `found_inf` is how torch's GradScaler, too, tells a fused optimizer to leave an update out.
        """
        parameters = [p for p in self.module.parameters() if p.grad is not None]
        norm = nn.utils.clip_grad_norm_(parameters, self.config.optim.clip_norm or math.inf)
        optimizer = self.optimizer
        for group in optimizer.param_groups:
            group["lr"] = self.learning_rate
        optimizer.found_inf = (~norm.isfinite()).float()  # type: ignore[attr-defined]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if self._average:
            self._average.update(norm)
        return norm

    def whole_model(self) -> contextlib.AbstractContextManager[None]:
        """It always is; averages take the training weights' place inside."""
        return self._average.swapped() if self._average else contextlib.nullcontext()

    def model_tensors(self) -> Tensors:
        """Its own tensors, not copies."""
        names = [name for name, _ in self.module.named_parameters()]
        averages = zip(names, self._average.averages, strict=True) if self._average else ()
        return self.module.state_dict() | dict(averages)

    def optimizer_tensors(self) -> Tensors:
        """Its own tensors, not copies."""
        found: Tensors = {}
        for name, parameter in self.module.named_parameters():
            state = self.optimizer.state.get(parameter, {})
            found |= {f"{moment}/{name}": value for moment, value in state.items()}
            if self._average and parameter.requires_grad:
                found[f"{RAW}/{name}"] = parameter.detach()
        return found

    @torch.no_grad()
    def _set_weight(self, name: str, value: torch.Tensor) -> None:
        self.module.get_parameter(name).copy_(value)

    def _restore_moments(self, moments: Tensors) -> None:
        """All of an Adam's state, step counts too, lies where its parameter does, as a fused one makes it.

        Moments are laid out in memory as their parameter is: a fused Adam goes through both side by side.
        """
        parameters = dict(self.module.named_parameters())
        for key, value in moments.items():
            moment, name = key.split("/", 1)
            like = parameters[name] if value.shape == parameters[name].shape else value
            place = torch.empty_like(like, dtype=value.dtype, device=parameters[name].device)
            self.optimizer.state[parameters[name]][moment] = place.copy_(value)


def _lay_out_buckets(wrapped: Any) -> None:
    """Let DDP lay out its buckets now, by a backward pass of zeros (all ranks).

    It lays them out anew after its first backward pass, in the order of the gradients, and where a gradient lies
    decides in which order three or more ranks are added up: the first step of a resumed run would be another
    than the same step of the run left alone, in its last bits.
    """
    trained = [parameter for parameter in wrapped.module.parameters() if parameter.requires_grad]
    wrapped.reducer.prepare_for_backward([])
    torch.stack([parameter.sum() * 0 for parameter in trained]).sum().backward()  # type: ignore[no-untyped-call]
    for parameter in trained:
        parameter.grad = None


def _accelerator(settings: DdpConfig) -> Any:
    from accelerate import Accelerator
    from accelerate.utils import DDPCommunicationHookType, DistributedDataParallelKwargs

    hooks = {"none": DDPCommunicationHookType.NO, "bf16": DDPCommunicationHookType.BF16}
    # BatchNorm's running statistics are averaged over lanes once a step, so nothing is broadcast.
    keywords = DistributedDataParallelKwargs(
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
        bucket_cap_mb=settings.bucket_cap_mb,
        comm_hook=hooks[settings.comm_hook],
    )
    return Accelerator(mixed_precision="no", cpu=not torch.cuda.is_available(), kwargs_handlers=[keywords])
