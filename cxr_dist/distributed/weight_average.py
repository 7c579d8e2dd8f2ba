"""The exponential moving average of the weights that an engine updates: whole tensors or a rank's partitions.

The average is elementwise, so it does not depend on how weights are partitioned over ranks. BatchNorm's running
statistics are not averaged, because they are moving averages already.
"""

import contextlib
from collections.abc import Iterator, Sequence

import torch


class WeightAverage:
    """Compute average = decay * average + (1 - decay) * weight after each update, starting from the weights.

    All weights must have the same dtype and device.
    """

    def __init__(self, decay: float, weights: Sequence[torch.Tensor]) -> None:
        self._share = 1.0 - decay
        self.weights = list(weights)  # not detached: a wrapper may replace the storage of a parameter
        self.averages = [weight.detach().clone() for weight in weights]

    @torch.no_grad()
    def update(self, gradient_norm: float | torch.Tensor) -> None:
        """Update the averages after a step, unless its gradient norm is not finite and the update was skipped.

        The norm is not read on the host, so this does not wait for the device.
        """
        applied = torch.isfinite(torch.as_tensor(gradient_norm)).double()
        # A share of 0 leaves the averages unchanged to the bit.
        share = (applied * self._share).to(self.averages[0])
        for average, weight in zip(self.averages, self.weights, strict=True):
            average.lerp_(weight, share)

    @contextlib.contextmanager
    def swapped(self) -> Iterator[None]:
        """Exchange weights and averages inside the block."""
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
