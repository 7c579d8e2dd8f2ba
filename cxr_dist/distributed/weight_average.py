"""The exponential moving average of the weights that an engine updates, whole tensors or a rank's partitions.

The average is elementwise, so it does not depend on how weights are partitioned over ranks. BatchNorm's running
statistics are averaged alike: those of the latest weights do not fit averaged weights.
"""

import contextlib
from collections.abc import Iterator, Sequence

import torch


class WeightAverage:
    """Compute average = decay * average + (1 - decay) * weight after each update, starting from the weights.

    All weights, which are of a floating-point dtype, must be on the same device.
    """

    def __init__(self, weights: Sequence[torch.Tensor]) -> None:
        self.weights = list(weights)  # not detached: a wrapper may replace the storage of a parameter
        self.averages = [weight.detach().clone() for weight in weights]

    @torch.no_grad()
    def update(self, decay: float, gradient_norm: float | torch.Tensor) -> None:
        """Update the averages after a step, unless its gradient norm is not finite and the update was skipped.

        The norm is not read on the host, so this does not wait for the device.
        """
        applied = torch.isfinite(torch.as_tensor(gradient_norm)).double()
        # A share of 0 leaves the averages unchanged to the bit, and a share of 1 sets them to the weights.
        share = applied * (1.0 - decay)
        of_dtype = {dtype: share.to(dtype) for dtype in {average.dtype for average in self.averages}}
        for average, weight in zip(self.averages, self.weights, strict=True):
            average.lerp_(weight, of_dtype[average.dtype])

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
