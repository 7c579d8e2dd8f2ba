"""BatchNorm's running statistics, updated once a step with the mean over all lanes.

While a step's micro-batches run, each BatchNorm's momentum is 1, so that its buffers hold that micro-batch's
own statistics (and a recomputation under gradient checkpointing changes nothing). Their sum crosses ranks
once, and the usual update follows: running = (1 - m) running + m mean. So the buffers do not depend on how
many lanes a rank computes.
"""

import torch
from torch import nn

from cxr_dist.distributed.reduce import sum_over_ranks

_BatchNorm = nn.modules.batchnorm._BatchNorm
_DEFAULT_MOMENTUM = 0.1


class LaneStatistics:
    """Collects the statistics of a step's lanes. Frozen (eval mode) layers take no part."""

    def __init__(self, model: nn.Module, num_lanes: int) -> None:
        layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
        self._momentum = {layer: layer.momentum or _DEFAULT_MOMENTUM for layer in layers}
        self._num_lanes = num_lanes
        self._layers: list[_BatchNorm] = []

    def start(self) -> None:
        """Before a step's first micro-batch."""
        self._layers = [layer for layer in self._momentum if layer.training]
        for layer in self._layers:
            layer.momentum = 1.0
        self._running, self._counts = self._statistics(), self._batch_counts()
        self._sum = [torch.zeros_like(buffer) for buffer in self._running]

    def add(self) -> None:
        """After the forward and backward pass of a micro-batch."""
        if self._layers:
            torch._foreach_add_(self._sum, self._statistics(copy=False))

    def finish(self, *, keep: bool) -> None:
        """After a step's last micro-batch (all ranks): update the buffers, or put back the old ones."""
        if not self._layers:
            return
        if keep:
            flat = sum_over_ranks(torch.cat(self._sum)) / self._num_lanes
            means: tuple[torch.Tensor, ...] = torch.split(flat, [len(b) for b in self._sum])
            momentum = [self._momentum[layer] for layer in self._layers for _ in range(2)]
            for running, mean, m in zip(self._running, means, momentum, strict=True):
                running.lerp_(mean, m)
            torch._foreach_add_(self._counts, 1)
        torch._foreach_copy_(self._statistics(copy=False), self._running)
        torch._foreach_copy_(self._batch_counts(copy=False), self._counts)
        for layer in self._layers:
            layer.momentum = self._momentum[layer]

    def _statistics(self, *, copy: bool = True) -> list[torch.Tensor]:
        pairs = [(layer.running_mean, layer.running_var) for layer in self._layers]
        buffers = [buffer for pair in pairs for buffer in pair if buffer is not None]
        return [buffer.clone() for buffer in buffers] if copy else buffers

    def _batch_counts(self, *, copy: bool = True) -> list[torch.Tensor]:
        counts = [layer.num_batches_tracked for layer in self._layers]
        found = [count for count in counts if count is not None]
        return [count.clone() for count in found] if copy else found
