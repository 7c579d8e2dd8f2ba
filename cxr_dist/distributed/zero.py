"""The engine for DeepSpeed ZeRO 1 to 3, which partitions optimizer state, then gradients, then parameters.

deepspeed.initialize is called directly, because Accelerate's wrapper steps inside backward and hides whether the
update was skipped. Checkpoints do not use DeepSpeed's format: moments are gathered tensor by tensor.
"""

import contextlib
import gc
import os
from argparse import Namespace
from collections.abc import Iterator
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional

from cxr_dist.distributed.engine import RAW, RAW_BUFFER, Backend, Tensors
from cxr_dist.distributed.zero_settings import zero_settings
from cxr_dist.errors import UserError

if not torch.cuda.is_available():
    os.environ["DS_ACCELERATOR"] = "cpu"  # read once, when deepspeed is imported
import deepspeed
from deepspeed.runtime.zero.stage3 import unwrap_model_for_generation
from deepspeed.utils import (
    lazy_init_hp_params_optimizer_state,
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
    safe_set_local_fp32_param,
    safe_set_local_optimizer_state,
)

# Otherwise DeepSpeed compiles a shared-memory all-reduce for CPU ranks, which needs a C++ compiler and a minute.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

_STEP = "step"


class Zero(Backend):
    """ZeRO flattens a parameter group into one tensor with one step count, and each rank updates a partition of it."""

    _engine: Any = None
    _optimizer: Any = None
    _moments: Tensors | None = None  # complete moments, until there is an engine to hold them

    def prepare(self) -> None:
        """Build an engine over the trainable parameters, which takes over the moments of the previous engine."""
        moments = self._close() if self._engine else self._moments or {}
        self._optimizer = self.new_optimizer(self._groups(moments))
        self._engine = self._initialize()
        self._wrapped = self._engine
        self._names = {parameter: name for name, parameter in self.module.named_parameters()}
        self._hand_out(moments)
        self._moments = None
        self._start_average([flat for _, flat in self._partitions()])

    def _initialize(self) -> Any:
        settings = zero_settings(self.config)
        # DeepSpeed assumes that the last axis is contiguous; a 1 × 1 kernel in channels_last only appears to be so.
        for parameter in self.module.parameters():
            parameter.data = parameter.data.flatten().view(parameter.shape)
        self._stage = settings["zero_optimization"]["stage"]
        try:
            engine, *_ = deepspeed.initialize(
                args=Namespace(device_rank=self.device.index or 0),  # by default LOCAL_RANK chooses the device
                model=self.module,
                optimizer=self._optimizer,
                config=settings,
                dist_init_required=False,
            )
        except ValidationError as error:
            raise UserError(f"DeepSpeed rejects --deepspeed {self.config.deepspeed}: {error}") from None
        return engine

    @contextlib.contextmanager
    def accumulate(self, *, is_last: bool) -> Iterator[None]:
        """Tell DeepSpeed whether this backward pass is the last one of a step."""
        self._engine.set_gradient_accumulation_boundary(is_last)
        yield

    def backward(self, loss: torch.Tensor) -> None:
        """Multiply by the world size, because DeepSpeed averages over ranks and the sum is wanted."""
        self._engine.backward(loss * self.world.world_size)

    def update(self) -> torch.Tensor:
        """Update unless the norm over all ranks is not finite; DeepSpeed waits for the device to know the norm."""
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate
        self._engine.step()
        return torch.as_tensor(self._engine.get_global_grad_norm(), device=self.device)

    @contextlib.contextmanager
    def whole_model(self) -> Iterator[None]:
        """Gather all parameters on each rank in stage 3; there are no collectives inside the block."""
        with unwrap_model_for_generation(self._engine) if self._stage == 3 else contextlib.nullcontext():
            if self._average is None:
                yield
                return
            with self._average.swapped():
                self._fill_module()
                yield
            self._fill_module()

    @torch.no_grad()
    def _fill_module(self) -> None:
        """Copy the partitions of all ranks to the module's parameters (all ranks)."""
        for name, value in self._whole_weights():
            self.module.get_parameter(name).copy_(value)

    def model_tensors(self) -> Tensors:
        """Return copies in the host memory of rank 0."""
        with self.whole_model():
            state = self.module.state_dict() if self.world.is_main else {}
            return {name: value.detach().to("cpu", copy=True) for name, value in state.items()}

    def optimizer_tensors(self) -> Tensors:
        """Return copies in the host memory of rank 0."""
        keep = self.world.is_main
        moments = self._gather(keep=keep)
        if self._average is None:
            return moments
        raw, buffers = self._gather_weights(keep=keep), self._copied_buffers() if keep else {}
        return (
            moments
            | {f"{RAW}/{name}": value for name, value in raw.items()}
            | {f"{RAW_BUFFER}/{name}": value for name, value in buffers.items()}
        )

    def _copied_buffers(self) -> Tensors:
        return {name: buffer.to("cpu", copy=True) for name, buffer in self._buffers().items()}

    def _restore_moments(self, moments: Tensors) -> None:
        """Keep the moments until `prepare` has built the engine."""
        self._moments = moments

    def _groups(self, moments: Tensors) -> list[dict[str, Any]]:
        """Group trainable parameters by their step count, because unfrozen encoders start at 0."""
        groups: dict[float, list[nn.Parameter]] = {}
        for name, parameter in self.module.named_parameters():
            if parameter.requires_grad:
                step = float(moments.get(f"{_STEP}/{name}", 0.0))
                groups.setdefault(step, []).append(parameter)
        return [{"params": parameters} for _, parameters in sorted(groups.items())]

    def _partitions(self) -> list[tuple[list[nn.Parameter], torch.Tensor]]:
        """Return for each group its parameters and the flat tensor that is this rank's partition of them."""
        zero = self._engine.optimizer
        if self._stage == 3:
            return list(zip(zero.fp16_groups, zero.fp32_partitioned_groups_flat, strict=True))
        return list(zip(zero.bit16_groups, zero.single_partition_of_fp32_groups, strict=True))

    def _whole_weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield name and whole value of each trainable parameter, or of its average inside `swapped` (all ranks)."""
        for parameters, _ in self._partitions():
            for parameter in parameters:
                yield self._names[parameter], safe_get_full_fp32_param(parameter)

    def _gather_weights(self, *, keep: bool) -> Tensors:
        whole = ((name, value) for name, value in self._whole_weights() if keep)
        return {name: value.to("cpu", copy=True) for name, value in whole}

    def _gather(self, *, keep: bool) -> Tensors:
        tensors: Tensors = {}
        for parameters, flat in self._partitions():
            state = self._optimizer.state.get(flat, {})
            for parameter in parameters:
                for kind in sorted(state):
                    whole = state[_STEP] if kind == _STEP else safe_get_full_optimizer_state(parameter, kind)
                    if keep:
                        tensors[f"{kind}/{self._names[parameter]}"] = whole.detach().to("cpu", copy=True)
        return tensors

    def _hand_out(self, moments: Tensors) -> None:
        """Set this rank's partition of the moments from the complete moments, which all ranks have."""
        for parameters, flat in self._partitions():
            step = moments.get(f"{_STEP}/{self._names[parameters[0]]}")
            if step is None:
                continue
            # Sorted, as in `_gather`, because all ranks must call collectives in the same order.
            kinds = sorted({key.split("/", 1)[0] for key in moments} - {_STEP})
            self._optimizer.state[flat] = {_STEP: step.clone()} | {k: torch.zeros_like(flat) for k in kinds}
            if self._stage < 3:
                lazy_init_hp_params_optimizer_state(parameters, flat, self._optimizer.state)
            for parameter in parameters:
                for kind in kinds:
                    self._set(parameter, kind, moments[f"{kind}/{self._names[parameter]}"])

    def _set(self, parameter: nn.Parameter, moment: str, value: torch.Tensor) -> None:
        if self._stage < 3:
            safe_set_full_optimizer_state(parameter, value, moment)
        else:
            safe_set_local_optimizer_state(parameter, self._partition(parameter, value), moment)

    def _set_weight(self, name: str, value: torch.Tensor) -> None:
        """Set this rank's partition, not the module's parameter."""
        parameter = self.module.get_parameter(name)
        if self._stage < 3:
            safe_set_full_fp32_param(parameter, value)
        else:
            safe_set_local_fp32_param(parameter, self._partition(parameter, value))

    def _partition(self, parameter: nn.Parameter, whole: torch.Tensor) -> torch.Tensor:
        """Return this rank's partition in stage 3. DeepSpeed's own code requires that the ranks divide the size."""
        size = parameter.ds_tensor.numel()  # type: ignore[attr-defined]
        padded = functional.pad(whole.flatten(), (0, size * self.world.world_size - whole.numel()))
        return padded[self.world.rank * size :][:size]

    def _close(self) -> Tensors:
        """Destroy the engine and return its moments on every rank; the module keeps its parameters."""
        moments = self._gather(keep=True)
        if self._average:
            with self._average.swapped():
                self._averages = self._gather_weights(keep=True) | self._copied_buffers()
        self._engine.module_forward_pre_hook.remove()
        self._engine.module_forward_post_hook.remove()
        self._engine.destroy()
        # The engine's finaliser would call destroy again, when the next engine may own the same parameters.
        self._engine.destroy = lambda: None
        self._engine = self._wrapped = self._optimizer = self._average = None
        gc.collect()  # the engine has reference cycles, and its flat tensors are as large as the model
        return moments
