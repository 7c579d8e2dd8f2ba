"""DeepSpeed ZeRO 1–3: optimizer state, then gradients, then parameters are spread over the ranks.

deepspeed.initialize directly, not through Accelerate, whose wrapper steps inside backward and hides whether
the update was left out. Checkpoints do not go through DeepSpeed: moments are gathered tensor by tensor.
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

from cxr_dist.distributed.engine import RAW, Backend, Tensors
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

# Else DeepSpeed compiles a shared-memory all-reduce for CPU ranks, which needs a C++ compiler and a minute.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

_STEP = "step"


class Zero(Backend):
    """ZeRO flattens a parameter group into one tensor with one step count, of which each rank has a part."""

    _engine: Any = None
    _optimizer: Any = None
    _moments: Tensors | None = None  # full ones, while there is no engine to hold them

    def prepare(self) -> None:
        """Build an engine over the trainable parameters; one that was there hands on its moments."""
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
        # DeepSpeed takes a last axis to be contiguous; that of a 1 × 1 kernel as channels_last only says that it is.
        for parameter in self.module.parameters():
            parameter.data = parameter.data.flatten().view(parameter.shape)
        self._stage = settings["zero_optimization"]["stage"]
        try:
            engine, *_ = deepspeed.initialize(
                args=Namespace(device_rank=self.device.index or 0),  # else it takes LOCAL_RANK for the device
                model=self.module,
                optimizer=self._optimizer,
                config=settings,
                dist_init_required=False,
            )
        except ValidationError as error:
            raise UserError(f"DeepSpeed does not take --deepspeed {self.config.deepspeed}: {error}") from None
        return engine

    @contextlib.contextmanager
    def accumulate(self, *, is_last: bool) -> Iterator[None]:
        """DeepSpeed decides by this flag whether a backward ends a step."""
        self._engine.set_gradient_accumulation_boundary(is_last)
        yield

    def backward(self, loss: torch.Tensor) -> None:
        """DeepSpeed averages over ranks, and we want the sum."""
        self._engine.backward(loss * self.world.world_size)

    def update(self) -> torch.Tensor:
        """DeepSpeed leaves an update out where the norm over all ranks is not finite; it waits for the device."""
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate
        self._engine.step()
        norm = torch.as_tensor(self._engine.get_global_grad_norm(), device=self.device)
        if self._average:
            self._average.update(norm)
        return norm

    @contextlib.contextmanager
    def whole_model(self) -> Iterator[None]:
        """Stage 3 gathers all parameters on each rank, and takes its hooks off: no collectives inside."""
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
        """Copy the parts that the ranks update into the module's whole parameters (all ranks)."""
        for name, value in self._whole_weights():
            self.module.get_parameter(name).copy_(value)

    def model_tensors(self) -> Tensors:
        """Copies on the host of rank 0."""
        with self.whole_model():
            found = self.module.state_dict() if self.world.is_main else {}
            return {name: value.detach().to("cpu", copy=True) for name, value in found.items()}

    def optimizer_tensors(self) -> Tensors:
        """Copies on the host of rank 0."""
        keep = self.world.is_main
        raw = self._gather_weights(keep=keep) if self._average else {}
        return self._gather(keep=keep) | {f"{RAW}/{name}": value for name, value in raw.items()}

    def _restore_moments(self, moments: Tensors) -> None:
        """They wait for the engine."""
        self._moments = moments

    def _groups(self, moments: Tensors) -> list[dict[str, Any]]:
        """Trainable parameters, those with the same step count in a group: thawed encoders start at 0."""
        groups: dict[float, list[nn.Parameter]] = {}
        for name, parameter in self.module.named_parameters():
            if parameter.requires_grad:
                step = float(moments.get(f"{_STEP}/{name}", 0.0))
                groups.setdefault(step, []).append(parameter)
        return [{"params": parameters} for _, parameters in sorted(groups.items())]

    def _partitions(self) -> list[tuple[list[nn.Parameter], torch.Tensor]]:
        """Per group: its parameters, and the flat tensor that is this rank's part of them."""
        zero = self._engine.optimizer
        if self._stage == 3:
            return list(zip(zero.fp16_groups, zero.fp32_partitioned_groups_flat, strict=True))
        return list(zip(zero.bit16_groups, zero.single_partition_of_fp32_groups, strict=True))

    def _whole_weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """By name, what the ranks update, or the averages while they are swapped in (all ranks)."""
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
                for moment in sorted(state):
                    whole = (
                        state[_STEP] if moment == _STEP else safe_get_full_optimizer_state(parameter, moment)
                    )
                    if keep:
                        tensors[f"{moment}/{self._names[parameter]}"] = whole.detach().to("cpu", copy=True)
        return tensors

    def _hand_out(self, moments: Tensors) -> None:
        """Give each rank its part of the full moments, which all ranks have."""
        for parameters, flat in self._partitions():
            step = moments.get(f"{_STEP}/{self._names[parameters[0]]}")
            if step is None:
                continue
            # Sorted, here and where they are gathered: ranks must not differ in the order of collectives.
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
            safe_set_local_optimizer_state(parameter, self._part(parameter, value), moment)

    def _set_weight(self, name: str, value: torch.Tensor) -> None:
        """Into this rank's part, not into the module's parameter."""
        parameter = self.module.get_parameter(name)
        if self._stage < 3:
            safe_set_full_fp32_param(parameter, value)
        else:
            safe_set_local_fp32_param(parameter, self._part(parameter, value))

    def _part(self, parameter: nn.Parameter, whole: torch.Tensor) -> torch.Tensor:
        """Stage 3's part of this rank. DeepSpeed's own cut fails where the ranks do not divide the size."""
        size = parameter.ds_tensor.numel()  # type: ignore[attr-defined]
        padded = functional.pad(whole.flatten(), (0, size * self.world.world_size - whole.numel()))
        return padded[self.world.rank * size :][:size]

    def _close(self) -> Tensors:
        """End the engine and return its moments, on every rank; the module keeps its parameters."""
        moments = self._gather(keep=True)
        if self._average:
            with self._average.swapped():
                self._averages = self._gather_weights(keep=True)
        self._engine.module_forward_pre_hook.remove()
        self._engine.module_forward_post_hook.remove()
        self._engine.destroy()
        # Its finaliser would destroy again, perhaps when the next engine has taken the same parameters over.
        self._engine.destroy = _nothing
        self._engine = self._wrapped = self._optimizer = self._average = None
        gc.collect()  # it is full of cycles, and its flat tensors are as large as the model
        return moments


def _nothing() -> None:
    pass
