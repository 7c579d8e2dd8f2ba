"""The format of an exported model: a folder that can be used without shards, run folder or internet access.

    EXPORT/config.json  model.safetensors  text_encoder/  image_encoder/  model.onnx  README.md  SHA256SUMS

`read` needs every file of SHA256SUMS and compares the sha256 of those that it reads; `sha256sum --check SHA256SUMS`
does this for all files. model.onnx is for other runtimes, and not every export has one. README.md, the model card, has
no checksum, so that people can edit it. Any other file is refused, because it could change what the tokenizer does.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from cxr_dist import __version__
from cxr_dist.config.decode import parse_json
from cxr_dist.errors import UserError, out_of_files, require
from cxr_dist.files import read_regular
from cxr_dist.inference.description import CONFIG, EXPORT_FORMAT, READABLE, Description
from cxr_dist.inference.export_sums import AGAIN, check_sums

WEIGHTS, TEXT_ENCODER, GRAPH = "model.safetensors", "text_encoder", "model.onnx"

_MACHINE_KEYS = ("_name_or_path", "name_or_path", "tokenizer_file", "special_tokens_map_file")


def write_weights(folder: Path, description: Description, tensors: dict[str, Tensor]) -> None:
    """Write config.json and model.safetensors into an existing folder."""
    (folder / CONFIG).write_text(description.to_json(), encoding="utf-8")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    shutil.copymode(folder / CONFIG, folder / WEIGHTS)  # safetensors makes the file readable by its owner only


def write_encoder(folder: Path, source: Path) -> None:
    """Copy a folder of the run's encoder, without the local paths that other tools write into its JSON files."""
    (folder / source.name).mkdir()
    for path in sorted(source.iterdir()):
        content = read_regular(path)
        if path.suffix == ".json":
            plain = json.loads(content)
            if any(key in plain for key in _MACHINE_KEYS):
                kept = {key: value for key, value in plain.items() if key not in _MACHINE_KEYS}
                content = (json.dumps(kept, indent=1, ensure_ascii=False) + "\n").encode("utf-8")
        (folder / source.name / path.name).write_bytes(content)


def read(folder: Path) -> tuple[Description, dict[str, Tensor]]:
    """The description and the tensors of an exported model, after a check of their sha256.

    Raises UserError for a folder that is missing, damaged, not an exported model, or written by a newer release.
    """
    plain = _recognise(folder)
    check_sums(folder, CONFIG, WEIGHTS, unread=GRAPH)
    description = Description.from_plain(plain, f"{CONFIG} in {folder}")
    try:
        tensors = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError, ValueError) as error:
        raise out_of_files(error) or UserError(
            f"{WEIGHTS} of the exported model is damaged ({type(error).__name__}): {AGAIN}"
        ) from None
    double = {name for name, tensor in tensors.items() if tensor.dtype == torch.float64}
    require(
        bool(double) == (description.config.precision == "fp64"),
        f"{CONFIG} in {folder}: precision is {description.config.precision}, but {WEIGHTS} was written with another: "
        f"{AGAIN}",
    )
    return description, tensors


def _recognise(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: expected one that `cxr-dist export` wrote")
    require(
        (folder / CONFIG).is_file(),
        f"{folder} is neither an exported model (no {CONFIG}) nor a run folder (no config.yaml): give a "
        "folder that `cxr-dist export` or `cxr-dist train` wrote",
    )
    plain = parse_json(folder / CONFIG, f"{CONFIG} in {folder}")
    if not isinstance(plain, dict) or plain.get("format") != EXPORT_FORMAT:
        raise UserError(
            f"{CONFIG} in {folder} does not describe a cxr_dist model: open other Hugging Face models with their own "
            "library"
        )
    version = plain.get("format_version")
    if version not in READABLE:
        raise UserError(
            f"the model in {folder} has format version {version}, written by cxr_dist "
            f"{plain.get('cxr_dist_version')}; this release, {__version__}, reads versions {READABLE}: "
            "install the release that wrote it, or a newer one"
        )
    return plain
