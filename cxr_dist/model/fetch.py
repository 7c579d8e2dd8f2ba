"""`cxr-dist fetch`: from the model hub and torchvision's server into the offline bundle (weights.py), once.

A component is downloaded aside (`NAME.partial`), converted to safetensors, hashed into its bundle.json, and renamed
last. One process of a node does it at a time; the others wait, and find it done.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from huggingface_hub.utils import build_hf_headers
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models import DenseNet121_Weights

from cxr_dist.errors import UserError
from cxr_dist.files import locked, sha256_of, sync_path, write_whole
from cxr_dist.model.download import download, patiently
from cxr_dist.model.weights import IMAGE_COMPONENT, TEXT_COMPONENT, verify_component

_DENSENET_URL: str = DenseNet121_Weights.IMAGENET1K_V1.url
_TEXT_FILES = {
    "config.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
}
_DOWNLOADS = "download"


def fetch(
    out: Path,
    *,
    text_encoder: str = TEXT_COMPONENT,
    endpoint: str | None = None,
    densenet_url: str = _DENSENET_URL,
) -> None:
    """Download DenseNet-121 and a text encoder into the bundle `out`; what is there and whole is left alone.

    `endpoint` is the model hub (None: $HF_ENDPOINT, else the public one). Raises UserError where the network
    fails or bytes are wrong; the bundle then holds only whole components, and another run continues.
    """
    _fetch_component(out, IMAGE_COMPONENT, lambda folder: _download_densenet(densenet_url, folder))
    _fetch_component(out, text_encoder, lambda folder: _download_text(text_encoder, endpoint, folder))


def _fetch_component(out: Path, name: str, fill: Callable[[Path], dict[str, str]]) -> None:
    """`fill` puts a component's files into a folder and returns where they came from."""
    folder = out / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_name(folder.name + ".lock")):
        _fetch_alone(folder, name, fill)


def _fetch_alone(folder: Path, name: str, fill: Callable[[Path], dict[str, str]]) -> None:
    if (folder / "bundle.json").is_file():
        verify_component(folder)
        return
    if folder.exists():
        raise UserError(
            f"{folder} exists but `cxr-dist fetch` did not make it: move it, or choose another --out"
        )
    aside = folder.with_name(folder.name + ".partial")
    (aside / _DOWNLOADS).mkdir(parents=True, exist_ok=True)
    for path in aside.iterdir():  # made from downloads that may have been of another revision
        if path.name != _DOWNLOADS:
            path.unlink()
    try:
        source = fill(aside)
    except UserError:
        raise
    # The hub's client changes its HTTP library, and so its errors, between releases.
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"cannot fetch {name}: {reason} (nothing was put under its name; run it again, and it goes on)"
        ) from error
    shutil.rmtree(aside / _DOWNLOADS)
    files = sorted(aside.iterdir())
    for path in files:
        sync_path(path)
    record = {"source": source, "sha256": {path.name: sha256_of(path) for path in files}}
    write_whole(aside / "bundle.json", json.dumps(record, indent=1) + "\n")
    aside.rename(folder)
    sync_path(folder.parent)


def _download_densenet(url: str, folder: Path) -> dict[str, str]:
    """The file's name ends in the first digits of its sha256, as torchvision's do."""
    match = re.search(r"([^/]+)-([0-9a-f]{8,})\.pth$", url)
    assert match is not None, "a torchvision weights URL ends in -SHA256.pth"
    file = folder / _DOWNLOADS / f"{match.group(1)}.pth"
    download(url, file, match.group(2))
    _convert(file, folder / "model.safetensors")
    return {"url": url}


def _download_text(name: str, endpoint: str | None, folder: Path) -> dict[str, str]:
    """A model's configuration, tokenizer and weights at the hub's newest revision."""
    revision, published = _published_files(name, endpoint)
    weights = next((w for w in ("model.safetensors", "pytorch_model.bin") if w in published), None)
    if weights is None or "config.json" not in published:
        raise UserError(f"{name} on the hub has no config.json with model.safetensors or pytorch_model.bin")
    for file in [*sorted(_TEXT_FILES & set(published)), weights]:
        sha, size = published[file]
        path = folder / _DOWNLOADS / sha[:16] / file
        path.parent.mkdir(exist_ok=True)
        url = huggingface_hub.hf_hub_url(name, file, revision=revision, endpoint=endpoint)
        download(url, path, sha, size=size, headers=build_hf_headers())
        if file == "pytorch_model.bin":
            _convert(path, folder / "model.safetensors")
        else:
            shutil.copyfile(path, folder / file)
    _check_readable(folder / "model.safetensors")
    return {"repository": name, "revision": revision}


def _published_files(name: str, endpoint: str | None) -> tuple[str, dict[str, tuple[str, int | None]]]:
    """The newest revision, and for each file its sha256 (large files) or git blob id (small ones), and bytes."""
    hub = huggingface_hub.HfApi(endpoint=endpoint)
    info: Any = patiently(lambda: hub.model_info(name, files_metadata=True))
    files = {s.rfilename: (s.lfs.sha256 if s.lfs else s.blob_id, s.size) for s in info.siblings}
    return info.sha, files


def _convert(source: Path, target: Path) -> None:
    """A torch state dict to safetensors, with torchvision's old DenseNet names (`norm.1`) made `norm1`."""
    try:
        state: dict[str, Tensor] = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler's own kinds
        raise UserError(
            f"{source.name} is not a file of tensors alone ({type(error).__name__}), so it was not opened: it could "
            "hold a program. Nothing was put under its name"
        ) from None
    renamed = {
        re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.", r"\1\2.", k): v for k, v in state.items()
    }
    # safetensors refuses tensors that share memory, such as a tied decoder.
    save_file({k: v.clone().contiguous() for k, v in renamed.items()}, target, metadata={"format": "pt"})


def _check_readable(weights: Path) -> None:
    """What the hub vouches for may still be something else, as a Git LFS pointer put there by mistake."""
    try:
        with safe_open(weights, framework="pt") as file:
            file.keys()
    except SafetensorError:
        raise UserError(
            f"{weights.name} on the hub is no safetensors file: take another text encoder"
        ) from None
