"""Read the tensors of a network that was pickled as a whole, without its classes and without running any code.

torch's `weights_only` unpickler makes only objects that it is told are safe. Here the classes of networks are replaced
by one without any method, which merely takes up the attributes. A file that names anything else is refused.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from cxr_dist.errors import UserError

_NETWORKS = ("torch.nn.modules.", "torchvision.models.", "torchxrayvision.models.")


def whole_model_tensors(path: Path) -> dict[str, Tensor]:
    """The parameters and buffers of a pickled nn.Module by their names, as its `state_dict` would give them.

    Raises UserError for a file that is damaged or no network, that holds anything else, or that torch before 1.6 wrote.
    """
    try:
        names = get_unsafe_globals_in_checkpoint(path)
        strange = [name for name in names if not name.startswith(_NETWORKS)]
        if strange:
            raise UserError(
                f"{path.name} holds more than a network ({strange[0]}), and reading it could run a program, so it was "
                "not loaded"
            )
        stand_ins = [(type("Module", (), {}), name) for name in names]
        with safe_globals(stand_ins):  # type: ignore[arg-type]
            network = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # the unpickler raises exceptions of many kinds
        raise UserError(f"{path.name} is not a network that torch.save wrote ({type(error).__name__})") from None
    tensors = _tensors(network, "")
    if not tensors:
        raise UserError(f"{path.name} holds no network: no tensors were found in it")
    return tensors


def _tensors(module: Any, prefix: str) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for kind in ("_parameters", "_buffers"):
        tensors = getattr(module, kind, None) or {}
        found |= {prefix + name: t.detach() for name, t in tensors.items() if isinstance(t, Tensor)}
    for name, child in (getattr(module, "_modules", None) or {}).items():
        found |= _tensors(child, f"{prefix}{name}.")
    return found
