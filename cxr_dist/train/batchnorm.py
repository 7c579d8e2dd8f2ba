"""BatchNorm's running statistics, updated once per step with the mean over all lanes.

During a step each layer's momentum is 1, so that its buffers hold the statistics of the current micro-batch, also when
gradient checkpointing recomputes it. Their sum is reduced over ranks once per step and then applied as usual, running =
(1 - m) running + m mean, so that the buffers do not depend on the number of lanes per rank. The statistics of all
layers are concatenated into one vector, which takes few operations.
"""

import torch
from torch import nn

from cxr_dist.distributed.lane_sum import sum_of_lanes
from cxr_dist.distributed.reduce import sum_over_ranks

_BatchNorm = nn.modules.batchnorm._BatchNorm
_DEFAULT_MOMENTUM = 0.1


class LaneStatistics:
    """Collects the statistics of a step's lanes. Frozen layers, which are in eval mode, are excluded."""

    def __init__(self, model: nn.Module, num_lanes: int, *, as_tree: bool = False) -> None:
        """`as_tree`: add the statistics in an order that does not depend on the number of ranks."""
        layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
        self._momentum = {layer: layer.momentum or _DEFAULT_MOMENTUM for layer in layers}
        self._num_lanes, self._as_tree = num_lanes, as_tree
        self._layers: list[_BatchNorm] = []

    def start(self) -> None:
        """Call before the first micro-batch of a step."""
        before, self._layers = self._layers, [layer for layer in self._momentum if layer.training]
        if not self._layers:
            return
        pairs = [(layer.running_mean, layer.running_var) for layer in self._layers]
        self._buffers = [buffer for pair in pairs for buffer in pair if buffer is not None]
        counts = [layer.num_batches_tracked for layer in self._layers]
        self._counts = [count for count in counts if count is not None]
        if self._layers != before:
            momenta = [self._momentum[layer] for layer in self._layers for _ in range(2)]
            self._weights = torch.cat([torch.full_like(b, m) for b, m in zip(self._buffers, momenta, strict=True)])
        for layer in self._layers:
            layer.momentum = 1.0
        self._running, self._count = torch.cat(self._buffers), torch.stack(self._counts)
        self._sum = torch.zeros_like(self._running)
        self._lanes: list[torch.Tensor] = []

    def add(self) -> None:
        """Call after the forward and backward pass of each micro-batch."""
        if self._as_tree and self._layers:
            self._lanes.append(torch.cat(self._buffers))
        elif self._layers:
            self._sum += torch.cat(self._buffers)

    def finish(self, *, keep: torch.Tensor) -> None:
        """Call after the last micro-batch of a step: updates the buffers or restores them (all ranks).

        `keep` is a boolean scalar on the buffers' device: whether to update. It is not read on the host.
        """
        if not self._layers:
            return
        own = sum_of_lanes(self._lanes) if self._as_tree else self._sum
        mean = sum_over_ranks(own, as_tree=self._as_tree) / self._num_lanes
        running = torch.where(keep, torch.lerp(self._running, mean, self._weights), self._running)
        torch._foreach_copy_(self._buffers, list(torch.split(running, [b.numel() for b in self._buffers])))
        torch._foreach_copy_(self._counts, list((self._count + keep).unbind()))
        for layer in self._layers:
            layer.momentum = self._momentum[layer]
