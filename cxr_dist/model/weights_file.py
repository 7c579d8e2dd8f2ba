"""Read a file of published weights: from a path to tensors by name, without running any code from the file.

A .safetensors file holds tensors only. A torch file is read with `weights_only`, which refuses every Python object but
tensors, numbers and text, and may hold its tensors in a dictionary beside the state of a training.
"""

import re
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cxr_dist.errors import UserError, out_of_files, require

FLAG = "--model.image-weights"
_TORCH_ENDINGS = (".pth", ".pt", ".bin", ".ckpt")
_HOLDERS = (
    *("state_dict", "model_state_dict", "model", "net", "network", "weights"),
    *("state_dict_ema", "model_ema", "ema", "student", "teacher"),
)
"""Keys under which training programs save the tensors of a network."""
_CONVERT = "in the program that wrote it, save `model.state_dict()` alone with safetensors.torch.save_file"


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or of a torch file, on the CPU, by their names in the file.

    Raises UserError for a path that is not such a file, for a damaged file, for a torch file with Python objects, which
    are never loaded, for one with several sets of weights, and for one without any tensor.
    """
    check_weights_path(path)
    weights = _safetensors(path) if path.suffix == ".safetensors" else _network_in(_unpickled(path), path.name)
    require(bool(weights), f"{FLAG}: {path.name} holds no tensors: expected the weights of an image encoder")
    return {present_name(name): tensor for name, tensor in weights.items()}


def check_weights_path(path: Path) -> None:
    """Raise UserError unless the path is a file whose name has one of the endings that can be read."""
    require(not path.is_dir(), f"{FLAG}: {path} is a folder: name the file of weights in it")
    require(path.is_file(), f"{FLAG}: there is no file {path}")
    require(
        path.suffix != ".onnx",
        f"{FLAG}: {path.name} is an ONNX graph, which does not say which tensor belongs to which layer: expected "
        "the .safetensors or .pth file that the graph was made from",
    )
    endings = (".safetensors", *_TORCH_ENDINGS)
    require(path.suffix in endings, f"{FLAG}: {path.name} does not end in one of {', '.join(endings)}")


def present_name(name: str) -> str:
    """Torchvision's present name of a tensor: its published DenseNets have `norm.1` where it now has `norm1`."""
    return re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.", r"\1\2.", name)


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        weights: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise out_of_files(error) or UserError(
            f"{FLAG}: {path.name} is not a safetensors file, or is damaged ({type(error).__name__}): copy or download "
            "it again"
        ) from None
    return weights


def _unpickled(path: Path) -> Any:
    """The content of a torch file. The unpickler raises exceptions of many kinds for what it does not know."""
    try:
        with warnings.catch_warnings(action="ignore"):  # torch warns of a plain pickle before it refuses it
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        words = str(error)
        if too_many := out_of_files(error):
            raise too_many from None
        if "nsupported global" in words or "nsupported class" in words or "TorchScript" in words:
            raise UserError(
                f"{FLAG}: {path.name} holds Python objects besides tensors, such as a whole model, and reading them "
                f"could run a program, so it was not loaded: {_CONVERT}"
            ) from None
        raise UserError(
            f"{FLAG}: {path.name} is not a file that torch.save wrote, or is damaged ({type(error).__name__}): copy or "
            "download it again"
        ) from None


def _network_in(content: Any, file: str) -> dict[str, Tensor]:
    """The tensors by name in what a torch file holds: itself, or the one dictionary of tensors in it."""
    if not isinstance(content, dict):
        raise UserError(f"{FLAG}: {file} holds a {type(content).__name__}, not tensors by name: {_CONVERT}")
    tensors = _tensors(content)
    holders = [key for key in _HOLDERS if isinstance(content.get(key), dict) and _tensors(content[key])]
    if tensors and not holders:
        return tensors
    if len(holders) == 1 and not tensors:
        return _tensors(content[holders[0]])
    found = f"several sets of weights ({', '.join(holders)})" if holders else "no tensors by name"
    raise UserError(f"{FLAG}: {file} holds {found}, but one is expected: {_CONVERT}")


def _tensors(content: dict[Any, Any]) -> dict[str, Tensor]:
    return {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
