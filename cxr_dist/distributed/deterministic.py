"""What makes the kernels of a rank give the same bits each time, for `exact_sums`."""

import contextlib
import os
import re
from collections.abc import Iterator

import torch

from cxr_dist.errors import UserError

_REFUSAL = re.compile(r"(\S+) does not have a deterministic implementation")


def make_deterministic(device: torch.device) -> None:
    """Set torch, for the rest of the process, so that an operation on equal inputs has equal bits, or raises an error.

    On the CPU a rank gets one thread: kernels divide their sums by the number of threads, which launchers set by the
    number of ranks. On CUDA cuBLAS needs a fixed workspace, and cuDNN must not choose its kernels by measurement.
    """
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if device.type == "cpu":
        torch.set_num_threads(1)
    else:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False


@contextlib.contextmanager
def nondeterminism_explained() -> Iterator[None]:
    """Turn the error of an operation without a deterministic kernel into a UserError that names the operation."""
    try:
        yield
    except RuntimeError as error:
        found = _REFUSAL.search(str(error))
        if found is None:
            raise
        raise UserError(
            f"exact_sums is on, but the network or the loss uses {found[1]}, which has no deterministic kernel on this "
            f"device in torch {torch.__version__}: replace it, or leave --exact-sums off"
        ) from None
