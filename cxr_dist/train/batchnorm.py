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


class LaneStatistics:
    """Collects the statistics of a step's lanes. Frozen (eval mode) layers take no part."""

    def __init__(self, model: nn.Module, num_lanes: int) -> None:
        layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
        self._momentum = {layer: layer.momentum or 0.1 for layer in layers}
        self._num_lanes = num_lanes
        self._layers: list[nn.modules.batchnorm._BatchNorm] = []

    def start(self) -> None:
        """Before a step's first micro-batch."""
        self._layers = [layer for layer in self._momentum if layer.training]
        for layer in self._layers:
            layer.momentum = 1.0
        self._running = self._flat()
        self._sum = torch.zeros_like(self._running)

    def add(self) -> None:
        """After the forward and backward pass of a micro-batch."""
        self._sum += self._flat()

    def finish(self, *, keep: bool) -> None:
        """After a step's last micro-batch (all ranks): update the buffers, or put back the old ones."""
        if not self._layers:
            return
        mean = sum_over_ranks(self._sum) / self._num_lanes if keep else self._running
        start = 0
        for layer in self._layers:
            layer.momentum = momentum = self._momentum[layer]
            for buffer in _statistics(layer):
                part = slice(start, start + buffer.numel())
                buffer.copy_(torch.lerp(self._running[part], mean[part], momentum))
                start += buffer.numel()

    def _flat(self) -> torch.Tensor:
        buffers = [buffer for layer in self._layers for buffer in _statistics(layer)]
        return torch.cat(buffers) if buffers else torch.zeros(0)


def _statistics(layer: nn.modules.batchnorm._BatchNorm) -> tuple[torch.Tensor, torch.Tensor]:
    assert layer.running_mean is not None
    assert layer.running_var is not None
    return layer.running_mean, layer.running_var
