"""The training forward pass compiled by torch.compile: a model in, the same model with faster kernels behind its call.

In place: parameters keep their names, and evaluation, which calls the model's parts one by one, runs as ever. Kernels
are kept in torch's own cache ($TORCHINDUCTOR_CACHE_DIR, else a folder of the user's in /tmp). Ranks of a node share it:
the first that needs a kernel compiles it under a lock, and a later start on the node finds all of them.
"""

import importlib.util
import shutil
from collections.abc import Iterable

import torch
from torch import nn

from cxr_dist.errors import UserError


def check_compiler(device: torch.device) -> None:
    """Raise UserError where torch.compile has no compiler for this device."""
    if device.type == "cuda":
        found, wanted = importlib.util.find_spec("triton") is not None, "the Python package triton"
    else:
        found, wanted = any(map(shutil.which, ("g++", "c++", "clang++"))), "a C++ compiler (g++)"
    if not found:
        raise UserError(f"--compile needs {wanted}, and none was found: install it, or leave --compile off")


def compile_forward(model: nn.Module) -> None:
    """Compile the model's call at its first use, and again where a guard fails, as when encoders thaw.

    Dropout keeps torch's own generator, so that its masks are those of the model as it was, in however many graphs
    DistributedDataParallel cuts it: a compiled run is the same at any world size, too.
    """
    model.compile(options={"fallback_random": True})


def mark_lengths(inputs: Iterable[torch.Tensor | None]) -> None:
    """Before each call: the lengths of token ids, masks and positions vary. Other sizes are compiled in.

    Without it the whole network would be compiled a second time at the second length that comes along.
    """
    for each in inputs:
        if each is not None and each.dtype == torch.int64:
            torch._dynamo.maybe_mark_dynamic(each, each.dim() - 1)
