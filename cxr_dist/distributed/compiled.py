"""Compile the training forward pass with torch.compile, in place.

Parameters keep their names, and evaluation, which calls the submodules directly, is not compiled. The ranks of a node
share torch's cache of kernels ($TORCHINDUCTOR_CACHE_DIR, else a folder in /tmp): the first rank that needs a kernel
compiles it under a lock, and later starts on the node reuse it.
"""

import importlib.util
import shutil
from collections.abc import Iterable

import torch
from torch import nn

from cxr_dist.errors import UserError


def check_compiler(device: torch.device) -> None:
    """Raise UserError if torch.compile has no compiler for this device."""
    if device.type == "cuda":
        is_there, wanted = importlib.util.find_spec("triton") is not None, "the Python package triton"
    else:
        is_there, wanted = any(map(shutil.which, ("g++", "c++", "clang++"))), "a C++ compiler (g++)"
    if not is_there:
        raise UserError(f"--compile needs {wanted}, and none was found: install it, or leave --compile off")


def compile_forward(model: nn.Module) -> None:
    """Compile the model's forward at its first call, and again when a guard fails, such as when encoders are unfrozen.

    `fallback_random` keeps torch's eager random numbers, so that dropout masks equal those of the uncompiled model
    however DistributedDataParallel splits the graph. A compiled run therefore has the same masks at any world size.
    """
    model.compile(options={"fallback_random": True})


def mark_lengths(inputs: Iterable[torch.Tensor | None]) -> None:
    """Mark the last dimension of all integer inputs (token ids, masks, positions) as dynamic, before each call.

    Otherwise the whole network would be compiled again for the second length that occurs.
    """
    for each in inputs:
        if each is not None and each.dtype == torch.int64:
            torch._dynamo.maybe_mark_dynamic(each, each.dim() - 1)
