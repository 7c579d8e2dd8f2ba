"""The exponential moving average of weights, beside an engine's own tensors: whole ones, or a rank's parts.

Elementwise, so it does not matter how weights are cut up and spread over ranks. BatchNorm's running statistics
are not averaged again: they are moving averages themselves, over about the last ten steps.
"""

import contextlib
from collections.abc import Iterator, Sequence

import torch


class WeightAverage:
    """average = decay * average + (1 - decay) * weight after each applied update, starting as the weights.

    All of one type, on one device.
    """

    def __init__(self, decay: float, weights: Sequence[torch.Tensor]) -> None:
        self._share = 1.0 - decay
        self.weights = list(weights)  # as they are: a wrapper may give a parameter another storage
        self.averages = [weight.detach().clone() for weight in weights]

    @torch.no_grad()
    def update(self, gradient_norm: float | torch.Tensor) -> None:
        """After an update; one that was left out, since its gradient's norm is not finite, moves nothing.

        Nothing waits for the device that holds the norm.
        """
        applied = torch.isfinite(torch.as_tensor(gradient_norm)).double()
        # 0 where left out: that keeps an average of finite weights to the bit.
        share = (applied * self._share).to(self.averages[0])
        for average, weight in zip(self.averages, self.weights, strict=True):
            average.lerp_(weight, share)

    @contextlib.contextmanager
    def swapped(self) -> Iterator[None]:
        """Inside, the weights' tensors hold the averages, and the other way round."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for average, weight in zip(self.averages, self.weights, strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)
