"""The engine of parallel training: DistributedDataParallel or DeepSpeed ZeRO behind one small interface.

Accelerate does the wrapping, because it keeps both engines' calls in step with their releases. Every `if`
about engines is here; the training step does not know which one runs.
"""

import contextlib
import datetime
import os
from collections.abc import Iterator
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import nn

from cxr_dist.distributed.world import World, rendezvous

Parallel = Literal["ddp", "zero1", "zero2", "zero3"]
Precision = Literal["fp32", "bf16", "fp64"]


def start(world: World, timeout_minutes: float) -> torch.device:
    """Join the other ranks (NCCL on CUDA, gloo on CPU) and return this rank's device (all ranks)."""
    cuda = torch.cuda.is_available()
    device = (
        torch.device("cuda", world.local_rank % torch.cuda.device_count()) if cuda else torch.device("cpu")
    )
    if cuda:
        torch.cuda.set_device(device)
    if world.world_size > 1 and not dist.is_initialized():
        os.environ.update(rendezvous(world))
        dist.init_process_group(
            "nccl" if cuda else "gloo", timeout=datetime.timedelta(minutes=timeout_minutes)
        )
    return device


def stop() -> None:
    """Leave the process group (all ranks)."""
    if dist.is_initialized():
        dist.destroy_process_group()


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[Any]:
    """bf16 autocast where the run asks for it; parameters stay in fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


class Backend:
    """DDP, or the bare model in a world of one. Gradients are sums over ranks."""

    def __init__(self, world: World, device: torch.device, precision: Precision) -> None:
        self.world, self.device, self.precision = world, device, precision
        self._wrapped: nn.Module | None = None
        self.module: nn.Module

    def prepare(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Wrap the model; call again after parameters were frozen or unfrozen (all ranks).

        DDP's reducer is built for the parameters that need gradients at that moment; one built before an
        unfreezing would hang or leave gradients unsummed.
        """
        self.module, self.optimizer = model, optimizer
        self._wrapped = model
        if self.world.world_size > 1:
            self._wrapped = _accelerator().prepare_model(model)

    def forward(self, *inputs: torch.Tensor | None) -> torch.Tensor:
        """Logits of one micro-batch, float32 or float64, through the wrapper."""
        assert self._wrapped is not None
        with autocast(self.device, self.precision):
            logits: torch.Tensor = self._wrapped(*inputs)
        return logits if logits.dtype == torch.float64 else logits.float()

    @contextlib.contextmanager
    def accumulate(self, *, is_last: bool) -> Iterator[None]:
        """Around forward and backward of a micro-batch: gradients cross ranks only in the step's last one."""
        wait = self.world.world_size > 1 and not is_last
        with self._wrapped.no_sync() if wait else contextlib.nullcontext():  # type: ignore[union-attr,operator]
            yield

    def backward(self, loss: torch.Tensor) -> None:
        """Accumulate gradients; DDP averages over ranks, and we want the sum."""
        (loss * self.world.world_size).backward()  # type: ignore[no-untyped-call]

    def clip(self, max_norm: float) -> torch.Tensor:
        """The total gradient norm, after scaling gradients down to `max_norm` (0: no clipping)."""
        parameters = [p for p in self.module.parameters() if p.grad is not None]
        return nn.utils.clip_grad_norm_(parameters, max_norm if max_norm > 0 else float("inf"))

    def update(self, *, apply: bool) -> None:
        """Apply the optimizer, unless the gradients are not finite, and clear the gradients."""
        if apply:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def _accelerator() -> Any:
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs

    # BatchNorm's running statistics are averaged over lanes once a step, so nothing is broadcast.
    keywords = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
    return Accelerator(mixed_precision="no", cpu=not torch.cuda.is_available(), kwargs_handlers=[keywords])
