"""The interface of an engine of parallel training, which DistributedDataParallel and DeepSpeed ZeRO both serve.

A model and the maker of its optimizer come in; forward, backward, update and a checkpoint's tensors go out.
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
"""From parameter groups to an Adam over them."""
RAW = "parameter"
"""Where weights are averaged, `optimizer_tensors` holds the training weights as `parameter/NAME`."""


class Backend(ABC):
    """A model and its optimizer under an engine. Gradients are sums over lanes and ranks.

    Where the run averages its weights (`optim.ema_decay`), `whole_model` and `model_tensors` have the averages.

    Calls in order: `restore` where there is a checkpoint; `prepare`; then steps, each of them for every lane
    `accumulate` around `forward` and `backward`, and one `update`.
    """

    def __init__(
        self,
        config: Config,
        world: World,
        device: torch.device,
        model: nn.Module,
        new_optimizer: NewOptimizer,
    ) -> None:
        self.config, self.world, self.device = config, world, device
        self.module, self.new_optimizer = model, new_optimizer
        self.learning_rate = config.optim.lr
        """Of the updates from here on."""
        self._wrapped: Any = None
        self._average: WeightAverage | None = None
        self._averages: Tensors = {}  # whole ones by name, while there is no engine to hold them

    def forward(self, *inputs: torch.Tensor | None) -> torch.Tensor:
        """Logits of one micro-batch, float32 or float64, through the wrapper."""
        assert self._wrapped is not None, "prepare() comes first"
        if self.config.compile:
            mark_lengths(inputs)
        with self.config.autocast(self.device.type):
            logits: torch.Tensor = self._wrapped(*inputs)
        return logits if logits.dtype == torch.float64 else logits.float()

    @abstractmethod
    def prepare(self) -> None:
        """Wrap the model for its trainable parameters; again after some were frozen or thawed (all ranks).

        Moments of the optimizer are kept.
        """

    @abstractmethod
    def accumulate(self, *, is_last: bool) -> contextlib.AbstractContextManager[None]:
        """Around forward and backward of a micro-batch; `is_last` of the step's."""

    @abstractmethod
    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of a loss that is already divided by the step's denominator."""

    @abstractmethod
    def update(self) -> torch.Tensor:
        """Clip, apply the optimizer once and clear the gradients (all ranks); the total norm before clipping.

        Where that norm, a scalar on the device, is not finite, on whichever rank the cause was, all ranks leave
        the update out.
        """

    @abstractmethod
    def whole_model(self) -> contextlib.AbstractContextManager[None]:
        """Inside, `module` holds all its parameters and runs by itself, for evaluation (all ranks)."""

    @abstractmethod
    def model_tensors(self) -> Tensors:
        """Parameters and buffers by name (all ranks take part, rank 0 gets them)."""

    @abstractmethod
    def optimizer_tensors(self) -> Tensors:
        """Adam's state as `moment/parameter name` (all ranks take part, rank 0 gets them).

        Parameters that were never stepped have none. The same names and shapes from every engine. With averaged
        weights also the training weights of all that is not frozen, as `parameter/NAME`.
        """

    def restore(self, model: Tensors, optimizer: Tensors) -> None:
        """Put back what `model_tensors` and `optimizer_tensors` of any engine gave; before `prepare`."""
        raw = {key.split("/", 1)[1]: value for key, value in optimizer.items() if key.startswith(f"{RAW}/")}
        self.module.load_state_dict(model | raw)
        self._averages = {name: model[name] for name in raw}
        self._restore_moments({k: value for k, value in optimizer.items() if not k.startswith(f"{RAW}/")})

    @abstractmethod
    def _restore_moments(self, moments: Tensors) -> None:
        """Put back Adam's state, by `moment/parameter name`."""

    @abstractmethod
    def _set_weight(self, name: str, value: torch.Tensor) -> None:
        """Write a whole parameter's values over what this rank updates of it."""

    def _start_average(self, weights: Sequence[torch.Tensor]) -> None:
        """Average what this rank updates, from the restored averages on, else from the weights."""
        if self.config.optim.ema_decay:
            self._average = WeightAverage(self.config.optim.ema_decay, weights)
            with self._average.swapped():
                for name, value in self._averages.items():
                    self._set_weight(name, value)
            self._averages = {}
