"""BatchNorm's running statistics, updated once a step with the mean over all lanes.

While a step's micro-batches run, each BatchNorm's momentum is 1, so that its buffers hold that micro-batch's
own statistics (and a recomputation under gradient checkpointing changes nothing). Their sum crosses ranks
once, and the usual update follows: running = (1 - m) running + m mean. So the buffers do not depend on how
many lanes a rank computes. The statistics of all layers are one vector: few, large operations.
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
        before, self._layers = self._layers, [layer for layer in self._momentum if layer.training]
        if not self._layers:
            return
        pairs = [(layer.running_mean, layer.running_var) for layer in self._layers]
        self._buffers = [buffer for pair in pairs for buffer in pair if buffer is not None]
        counts = [layer.num_batches_tracked for layer in self._layers]
        self._counts = [count for count in counts if count is not None]
        if self._layers != before:
            self._weights = torch.cat(self._momentum_of_each_value())
        for layer in self._layers:
            layer.momentum = 1.0
        self._running, self._count = torch.cat(self._buffers), torch.stack(self._counts)
        self._sum = torch.zeros_like(self._running)

    def add(self) -> None:
        """After the forward and backward pass of a micro-batch."""
        if self._layers:
            self._sum += torch.cat(self._buffers)

    def finish(self, *, keep: torch.Tensor) -> None:
        """After a step's last micro-batch (all ranks): update the buffers, or put back the old ones.

        `keep` is a scalar, bool, on the buffers' device, which decides: the host need not know.
        """
        if not self._layers:
            return
        mean = sum_over_ranks(self._sum) / self._num_lanes
        running = torch.where(keep, torch.lerp(self._running, mean, self._weights), self._running)
        torch._foreach_copy_(self._buffers, list(torch.split(running, [b.numel() for b in self._buffers])))
        torch._foreach_copy_(self._counts, list((self._count + keep).unbind()))
        for layer in self._layers:
            layer.momentum = self._momentum[layer]

    def _momentum_of_each_value(self) -> list[torch.Tensor]:
        momentum = [self._momentum[layer] for layer in self._layers for _ in range(2)]
        return [torch.full_like(buffer, m) for buffer, m in zip(self._buffers, momentum, strict=True)]
