"""BatchNorm over the micro-batches of all ranks, on CPU and CUDA; torch's SyncBatchNorm accepts CUDA tensors only.

Ranks exchange mean and variance in the forward pass and two sums in the backward pass (Ioffe and Szegedy 2015,
section 3). In eval mode, which includes frozen encoders, they exchange nothing. The price is that a sample is
normalised with the samples of other lanes, so that the results of a run depend on its world size.
"""

from typing import Any

import torch
from torch import nn

from cxr_dist.distributed.reduce import gather_rows, sum_over_ranks

_BatchNorm = nn.modules.batchnorm._BatchNorm


class SyncBatchNorm(_BatchNorm):
    """Replace a BatchNorm layer, with the same parameter and buffer names, and use the statistics of all ranks.

    Inputs have the shape [b, C, ...], which must be the same on all ranks. All ranks must call the layers equally
    often and in the same order.
    """

    momentum: float
    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor

    def __init__(self, layer: _BatchNorm, world_size: int) -> None:
        super().__init__(layer.num_features, layer.eps, layer.momentum, device="meta")
        self.weight, self.bias, self.world_size = layer.weight, layer.bias, world_size
        for name, buffer in layer.named_buffers():
            setattr(self, name, buffer)
        for name, part in layer.named_children():
            self.add_module(name, part)
        self.train(layer.training)

    def _check_input_dim(self, input: torch.Tensor) -> None:
        """Accept any number of dimensions."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalise with the statistics of all ranks in training mode (all ranks), with the buffers in eval mode."""
        outputs: torch.Tensor
        if not self.training:
            outputs = super().forward(input)
            return self._after(outputs)
        outputs, mean, variance = _Normalise.apply(input, self.weight, self.bias, self.eps, self.world_size)
        self._move_buffers(mean, variance, self.world_size * input.numel() // input.shape[1])
        return self._after(outputs)

    def _after(self, outputs: torch.Tensor) -> torch.Tensor:
        """Apply the layers that the replaced layer had inside: timm's BatchNorm ends in dropout and activation."""
        for part in self.children():
            outputs = part(outputs)
        return outputs

    @torch.no_grad()
    def _move_buffers(self, mean: torch.Tensor, variance: torch.Tensor, count: int) -> None:
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var) * count / (count - 1), self.momentum)


def synchronise_batchnorm(model: nn.Module, world_size: int) -> None:
    """Replace each BatchNorm layer inside a model by a `SyncBatchNorm` with the same parameters and names."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, _BatchNorm):
                setattr(parent, name, SyncBatchNorm(child, world_size))


class _Normalise(torch.autograd.Function):
    """Map inputs [b, C, ...] to (outputs, mean [C], biased variance [C]) with the statistics of all ranks."""

    @staticmethod
    def forward(
        ctx: Any, inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float, world_size: int
    ) -> tuple[torch.Tensor, ...]:
        values, dims, shape = _layout(inputs, weight)
        own = torch.stack(torch.var_mean(values, dims, correction=0))
        ranks = gather_rows(own[None], [1] * world_size)
        variance, mean = ranks.mean(0)
        variance = variance + ranks[:, 1].var(0, correction=0)  # within ranks and between them
        inverse = (variance + eps).rsqrt()
        scale = weight * inverse
        outputs = torch.addcmul((bias - mean * scale).view(shape), values, scale.view(shape))
        ctx.save_for_backward(inputs, weight, mean, inverse)
        ctx.world_size = world_size
        ctx.mark_non_differentiable(mean, variance)
        return outputs.to(inputs.dtype), mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Apply torch's formula for one process with two sums over all ranks; weight gradients stay this rank's."""
        inputs, weight, mean, inverse = ctx.saved_tensors
        values, dims, shape = _layout(inputs, weight)
        gradient = gradients[0].to(values.dtype)
        normal = (values - mean.view(shape)) * inverse.view(shape)
        own = torch.stack([gradient.sum(dims), (gradient * normal).sum(dims)])
        count = ctx.world_size * inputs.numel() // inputs.shape[1]
        shift, slope = sum_over_ranks(own.clone()) / count
        centred = gradient - shift.view(shape) - normal * slope.view(shape)
        return (centred * (weight * inverse).view(shape)).to(inputs.dtype), own[1], own[0], None, None


def _layout(inputs: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, list[int], list[int]]:
    """Return inputs in the weights' precision, the dimensions to reduce, and the shape to broadcast a channel."""
    dims = [dim for dim in range(inputs.dim()) if dim != 1]
    return inputs.to(weight.dtype), dims, [-1 if dim == 1 else 1 for dim in range(inputs.dim())]
