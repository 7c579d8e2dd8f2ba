"""The interface of an engine of parallel training, implemented for DistributedDataParallel and DeepSpeed ZeRO.

An engine takes a model and a function that creates its optimizer. It runs forward, backward and update, and returns
and restores the tensors of a checkpoint.
"""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from cxr_dist.config.run import Config
from cxr_dist.distributed.compiled import mark_lengths
from cxr_dist.distributed.weight_average import WeightAverage
from cxr_dist.distributed.world import World

Tensors = dict[str, torch.Tensor]
NewOptimizer = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
"""Creates an Adam optimizer for the given parameter groups."""
RAW = "parameter"
"""Prefix of the training weights in `optimizer_tensors`, as `parameter/NAME`, if the run averages its weights."""
RAW_BUFFER = "buffer"
"""Prefix of the buffers that belong to the training weights, such as BatchNorm's running statistics."""


class Backend(ABC):
    """A model and its optimizer under an engine. Gradients are sums over lanes and ranks.

    If the run averages its weights (`optim.ema_decay`), `whole_model` and `model_tensors` return the averages.

    The order of calls is: `restore` if there is a checkpoint; `prepare`; then for each step, `accumulate` around
    `forward` and `backward` of every lane, one `update`, and `average` when the step's buffers are final.
    """

    def __init__(self, config: Config, world: World, model: nn.Module, new_optimizer: NewOptimizer) -> None:
        self.config, self.world = config, world
        self.device = next(model.parameters()).device
        self.module, self.new_optimizer = model, new_optimizer
        self.learning_rate = config.optim.lr
        """Learning rate of the next updates."""
        self.ema_decay = config.optim.ema_decay
        """Decay of the next calls of `average`."""
        self._wrapped: Any = None
        self._average: WeightAverage | None = None
        self._averages: Tensors = {}  # complete averages by name, until `prepare` has built what holds them

    def forward(self, *inputs: torch.Tensor | None) -> torch.Tensor:
        """Return the logits of one micro-batch, float32 or float64, computed by the wrapped model."""
        assert self._wrapped is not None, "call prepare() first"
        if self.config.compile:
            mark_lengths(inputs)
        with self.config.autocast(self.device.type):
            logits: torch.Tensor = self._wrapped(*inputs)
        return logits if logits.dtype == torch.float64 else logits.float()

    @abstractmethod
    def prepare(self) -> None:
        """Wrap the model for its trainable parameters, keeping the optimizer's moments (all ranks).

        Call it again after parameters were frozen or unfrozen.
        """

    @abstractmethod
    def accumulate(self, *, is_last: bool) -> contextlib.AbstractContextManager[None]:
        """Return the context for forward and backward of a micro-batch; `is_last` for the last one of a step."""

    @abstractmethod
    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of a loss that is already divided by the step's denominator."""

    @abstractmethod
    def update(self) -> torch.Tensor:
        """Clip, update and clear the gradients, and return their total norm before clipping (all ranks).

        If the norm, a scalar on the device, is not finite, all ranks skip the update.
        """

    def average(self, norm: torch.Tensor) -> None:
        """Move the averages towards the weights and buffers, unless `update` returned a norm that is not finite."""
        if self._average:
            self._average.update(self.ema_decay, norm)

    @abstractmethod
    def whole_model(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which `module` holds all its parameters and can be evaluated by itself (all ranks)."""

    @abstractmethod
    def model_tensors(self) -> Tensors:
        """Return parameters and buffers by name (all ranks; the result is valid on rank 0)."""

    @abstractmethod
    def optimizer_tensors(self) -> Tensors:
        """Return Adam's state as `moment/parameter name` (all ranks; the result is valid on rank 0).

        Names and shapes are the same for every engine. Parameters that were never updated have no state. If weights
        are averaged, the training weights of all parameters that are not frozen are included as `parameter/NAME`, and
        their floating-point buffers as `buffer/NAME`.
        """

    def restore(self, model: Tensors, optimizer: Tensors) -> None:
        """Restore what `model_tensors` and `optimizer_tensors` of any engine returned; call before `prepare`.

        Earlier releases did not average buffers: their checkpoints have none beside the model's, which are those of the
        training weights, and the average of the buffers starts from them.
        """
        kinds = {key: key.split("/", 1) for key in optimizer}
        raw = {name: optimizer[key] for key, (kind, name) in kinds.items() if kind in (RAW, RAW_BUFFER)}
        self.module.load_state_dict(model | raw)
        self._averages = {name: model[name] for name in raw}
        self._restore_moments({k: optimizer[k] for k, (kind, _) in kinds.items() if kind not in (RAW, RAW_BUFFER)})

    @abstractmethod
    def _restore_moments(self, moments: Tensors) -> None:
        """Restore Adam's state, given by `moment/parameter name`."""

    @abstractmethod
    def _set_weight(self, name: str, value: torch.Tensor) -> None:
        """Overwrite the tensor that this rank updates of a parameter, given the values of the whole parameter."""

    def _start_average(self, weights: Sequence[torch.Tensor]) -> None:
        """Average the tensors that this rank updates, and the buffers, from restored averages or from themselves."""
        if self.config.optim.ema_decay:
            buffers = self._buffers()
            self._average = WeightAverage([*weights, *buffers.values()])
            with self._average.swapped():
                for name, value in self._averages.items():
                    if name in buffers:
                        buffers[name].copy_(value)
                    else:
                        self._set_weight(name, value)
            self._averages = {}

    def _buffers(self) -> Tensors:
        """The floating-point buffers of a checkpoint by name; every rank has all of them, with the same values."""
        saved, buffers = self.module.state_dict().keys(), self.module.named_buffers()
        return {name: buffer for name, buffer in buffers if name in saved and buffer.is_floating_point()}
