"""CUDA tensors without a driver: fake tensors have a shape, a type and a device, but no memory and no values.

Where a CPU tensor meets a CUDA one, torch raises the error that it would raise on a GPU. What needs values or the
driver has a stand-in here: a value that the host reads is 0 (1 for an integer), page-locked memory is ordinary memory,
an event has always happened, and the backward pass is a walk over the graph in the place of torch's engine,
which asks the driver for its streams. Out of reach are kernels, streams, several GPUs, ZeRO, torch.compile and studies
of several images, whose shapes depend on values. Not noticed are a CPU tensor that is indexed with a CUDA one, and the
moments of the fused optimizer on the CPU: their fake kernels do not compare devices.
"""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.overrides import TorchFunctionMode

GPU = torch.device("cuda", 0)
_PASSES = itertools.count()


class _Driverless(FakeTensorMode):
    avoid_device_init = True  # although torch.cuda.is_available() is True below


class _Readable(TorchFunctionMode):
    """Gives values to what the host reads from fake tensors, and refuses what torch refuses for a CUDA tensor."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        if name == "pin_memory":
            assert args[0].device.type == "cpu", "only tensors of the host can be pinned"
            return args[0]
        if func is torch.equal and any(isinstance(each, FakeTensor) for each in args):
            return bool((args[0] == args[1]).shape == args[0].shape)  # the comparison checks the devices
        if func is torch.bincount and not isinstance(args[0], FakeTensor):  # the result's shape depends on the values
            return outside(func)(*args, **kwargs)
        if args and isinstance(args[0], FakeTensor) and name in _READS:
            return _READS[name](args[0])
        return func(*args, **kwargs)


def _values(tensor: Tensor) -> np.ndarray:
    """Zeros of the tensor's shape and type, and ones for integers, so that a report's length is not zero."""
    value = not (tensor.dtype.is_floating_point or tensor.dtype == torch.bool)
    with unset_fake_temporarily():
        return torch.full(tensor.shape, value, dtype=tensor.dtype).numpy()


def _as_numpy(tensor: Tensor) -> np.ndarray:
    if tensor.is_cuda:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
    return _values(tensor)


_READS = {
    "numpy": _as_numpy,
    "__array__": _as_numpy,
    "tolist": lambda tensor: _values(tensor).tolist(),
    "item": lambda tensor: _values(tensor).item(),
    "__bool__": lambda tensor: bool(_values(tensor)),
    "__int__": lambda tensor: int(_values(tensor)),
    "__float__": lambda tensor: float(_values(tensor)),
}


class _Event:
    def __init__(self, **_: Any) -> None: ...

    def record(self) -> None: ...

    def synchronize(self) -> None: ...


@contextmanager
def fake_gpu() -> Iterator[None]:
    """A context in which torch seems to have one GPU, whose tensors are fake. Modules are moved to it by `.to`."""
    stand_ins = {
        "torch.cuda.is_available": lambda: True,
        "torch.cuda.device_count": lambda: 1,
        "torch.cuda.is_bf16_supported": lambda *_: True,
        "torch.cuda.get_device_name": lambda *_: "a fake GPU",
        "torch.cuda.get_rng_state": lambda *_: torch.zeros(16, dtype=torch.uint8),
        "torch.cuda.Event": _Event,
        "torch.Tensor.backward": _backward,
        "torch.autograd.grad": _grad,
    }
    with ExitStack() as stack:
        for name, stand_in in stand_ins.items():
            stack.enter_context(patch(name, stand_in))
        stack.enter_context(_Driverless(allow_non_fake_inputs=True))
        stack.enter_context(_Readable())
        yield


def outside(function: Any) -> Any:
    """The function, run with real tensors, also within `fake_gpu`."""

    def run(*arguments: Any, **options: Any) -> Any:
        with unset_fake_temporarily():
            return function(*arguments, **options)

    return run


def _backward(loss: Tensor) -> None:
    for node, gradient in _gradients(loss).items():
        if (leaf := getattr(node, "variable", None)) is not None:
            leaf.grad = gradient[0] if leaf.grad is None else leaf.grad + gradient[0]


def _grad(loss: Tensor, inputs: Any, *, allow_unused: bool = False) -> tuple[Tensor | None, ...]:
    found, gradients = _gradients(loss), []
    for tensor in [inputs] if isinstance(inputs, Tensor) else inputs:
        leaf = tensor.grad_fn is None
        nodes = [
            node for node in found if (getattr(node, "variable", None) is tensor if leaf else node == tensor.grad_fn)
        ]
        gradients.append(found[nodes[0]][0 if leaf else tensor.output_nr] if nodes else None)
        assert allow_unused or gradients[-1] is not None
    return tuple(gradients)


def _gradients(loss: Tensor) -> dict[Any, list[Tensor | None]]:
    """The gradient of each node's outputs. As torch's engine does, adds, sums to the shape, and compares the device."""
    order, number = _topological(loss.grad_fn), next(_PASSES)
    found: dict[Any, list[Tensor | None]] = {node: [None] * len(node._input_metadata) for node in order}
    # Gradient checkpointing recomputes once for each number that the engine gives to a backward pass.
    with torch.no_grad(), patch("torch._C._current_graph_task_id", lambda: number):
        found[loss.grad_fn][loss.output_nr] = torch.ones_like(loss)
        for node in order:
            if getattr(node, "variable", None) is not None or all(gradient is None for gradient in found[node]):
                continue
            outputs = node(*found[node])
            outputs = outputs if isinstance(outputs, Sequence) else [outputs]
            for (following, index), gradient in zip(node.next_functions, outputs, strict=False):
                if following is None or gradient is None:
                    continue
                expected = following._input_metadata[index]
                assert gradient.device == expected.device, f"{node.name()} returned a gradient on {gradient.device}"
                gradient = gradient.sum_to_size(list(expected.shape)).to(expected.dtype)
                before = found[following][index]
                found[following][index] = gradient if before is None else before + gradient
    return found


def _topological(root: Any) -> list[Any]:
    """The nodes of a graph, each before those that it passes gradients to."""
    seen, order, waiting = {root}, [], [(root, iter(root.next_functions))]
    while waiting:
        node, children = waiting[-1]
        child = next((following for following, _ in children if following is not None and following not in seen), None)
        if child is None:
            order.append(node)
            waiting.pop()
        else:
            seen.add(child)
            waiting.append((child, iter(child.next_functions)))
    return order[::-1]
