"""Predicts the device memory that a micro-batch needs, without the device.

The network of the run computes a forward and a backward pass on torch's fake tensors, which have shapes but no data,
while all allocations and releases are counted. The count includes saved activations, gradient checkpointing, autocast's
copies and temporary results, but not the workspaces of kernels and the fragmentation of the allocator.
"""

import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedOperatorException,
)
from torch.autograd.graph import _engine_run_backward
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from cxr_dist.config.run import Config
from cxr_dist.data.batch import Batch
from cxr_dist.model.adapt import with_adapters
from cxr_dist.model.classifier import Encoders
from cxr_dist.model.contrastive import Pairs, build_network, pair_loss
from cxr_dist.model.inputs import Inputs
from cxr_dist.model.losses import ClassificationLoss
from cxr_dist.train.memory.micro_batch import largest_batch

_HOST = torch.device("cpu")
_Kwargs = Mapping[str, Any] | None
_NEED_VALUES = (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException)


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Bytes on a rank that holds the whole network, for the largest possible micro-batch."""

    weights: int
    """Parameters and buffers."""
    gradients: int
    """Gradients of all trainable parameters."""
    first: int
    """Peak in addition to the weights, for a micro-batch that starts without gradients."""
    later: int
    """Peak in addition to weights and gradients, for a micro-batch that accumulates into existing gradients."""


def footprint(
    config: Config, num_classes: int, text_folder: Path | None, device: Literal["cpu", "cuda"], views: int = 1
) -> Footprint | None:
    """The footprint of a run's largest micro-batch in its last epoch, for the kernels of this kind of device.

    `text_folder` holds the text encoder's config.json; None in image mode. `views`: the most images per study. Nothing
    of the size of the network is allocated. Returns None if an encoder cannot run without values, for example because
    its control flow depends on them.
    """
    batch = largest_batch(config, config.data.global_batch // config.data.num_lanes, 1, views)
    with torch.device("meta"):
        model = with_adapters(build_network(config, num_classes, text_folder), config.model).train()
    model.set_encoders_frozen(config.encoders_frozen(config.train.epochs - 1))
    loss = ClassificationLoss(name=config.loss.name, gamma=config.loss.gamma, class_weights=None, task="multilabel")
    with ExitStack() as modes:
        modes.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        if device == "cuda":
            modes.enter_context(_CudaKernels())
        model = model.to_empty(device=_HOST)
        memory = modes.enter_context(_Memory(model))
        try:
            _forward_and_backward(config, model, loss, batch, num_classes)
        except Exception as error:
            # A part that the user wrote may raise any error without values.
            if isinstance(error, _NEED_VALUES) or config.model.has_own_encoder or ":" in config.loss.name:
                return None
            raise
    weights = _size([*model.parameters(), *model.buffers()])
    gradients = _size([p for p in model.parameters() if p.requires_grad])
    return Footprint(weights=weights, gradients=gradients, first=memory.most, later=memory.most_of_others)


def _forward_and_backward(
    config: Config, model: Encoders, loss: ClassificationLoss, batch: Batch, num_classes: int
) -> None:
    """The same computation as in `TrainStep.lane`, for images that are on the device and normalised."""
    images = None if batch.images is None else torch.empty(batch.images.shape)
    inputs = [
        part if part is None or part is images else torch.zeros(part.shape, dtype=part.dtype)
        for part in Inputs.of(batch, images)
    ]
    if config.model.is_contrastive:
        summed = _contrastive(config, model, inputs)
    else:
        targets = torch.zeros(len(batch.labels), num_classes)
        with config.autocast(_HOST.type):
            logits: Tensor = model(*inputs)
        summed = loss.sums(logits.float(), targets, torch.ones_like(targets)) / torch.ones(())
    # `summed.backward()` would disable the function mode, and gradient checkpointing would recompute other kernels.
    _engine_run_backward((summed,), (torch.ones(()),), False, False, (), allow_unreachable=True, accumulate_grad=True)


def _contrastive(config: Config, model: Encoders, inputs: Sequence[Tensor | None]) -> Tensor:
    """The same computation as in `ContrastiveStep`: embeddings of the global batch, their loss, and a micro-batch."""
    with torch.no_grad(), config.autocast(_HOST.type):
        rows: Tensor = model(*inputs)
    everything = rows.float().repeat(config.data.num_lanes, 1)
    gradient = pair_loss(everything, Pairs(reports=torch.ones(len(everything), 2, dtype=torch.int64))).gradient
    with config.autocast(_HOST.type):
        rows = model(*inputs)
    return (rows.float() * gradient[: len(rows)]).sum()


class _Memory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts allocated and released storages; completed gradients of parameters are also counted separately."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = self.most_of_others = 0
        self._now = self._gradients = 0
        self._known: dict[int, Any] = {}
        for tensor in (*model.parameters(), *model.buffers()):
            self._watch(tensor, counted=False)
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter.register_post_accumulate_grad_hook(self._completed)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: _Kwargs = None
    ) -> Any:
        """Called by torch in place of each of its operators."""
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, Tensor):
                self._watch(tensor, counted=True)
        return result

    def _watch(self, tensor: Tensor, *, counted: bool) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes() if counted else 0

        def gone(_: Any) -> None:
            self._now -= size
            del self._known[key]

        self._known[key] = weakref.ref(storage, gone)
        self._now += size
        self.most = max(self.most, self._now)
        self.most_of_others = max(self.most_of_others, self._now - self._gradients)

    def _completed(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        self._gradients += parameter.grad.untyped_storage().nbytes()


class _CudaKernels(TorchFunctionMode):
    """Saves for the backward pass what CUDA saves, which differs from the CPU.

    The mask of dropout takes one byte per element, the probabilities of attention are recomputed in the backward pass,
    and LayerNorm computes in float32 under autocast.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: _Kwargs = None
    ) -> Any:
        """Called by torch in place of each of its functions."""
        kwargs = kwargs or {}
        if func is functional.dropout:
            return _dropout(*args, **kwargs)
        if func is functional.scaled_dot_product_attention:
            return _attention(*args, **kwargs)
        if func is functional.layer_norm and torch.is_autocast_enabled("cpu"):
            return func(args[0].float(), *args[1:], **kwargs)
        return func(*args, **kwargs)


def _dropout(rows: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return torch.native_dropout(rows, p, True)[0] if training and p else rows


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **_: Any,
) -> Tensor:
    """The memory-efficient kernel, which supports masks and float32."""
    bias = None
    if attn_mask is not None:
        bias = torch.zeros(attn_mask.shape, dtype=query.dtype).expand(*query.shape[:-1], key.shape[-2])
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention
    attended: Tensor = kernel(query, key, value, bias, True, dropout_p, is_causal)[0]
    return attended


def _size(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
