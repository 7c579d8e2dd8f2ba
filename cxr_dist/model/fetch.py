"""`cxr-dist fetch`: download pretrained weights from the model hub and torchvision into the bundle (weights.py).

A component is downloaded to `NAME.partial` and converted to safetensors, its hashes are written to bundle.json, and
the folder is renamed last. One process on a node downloads at a time, and the others wait until it has finished.
"""

import dataclasses
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

from cxr_dist.config.decode import parse_record
from cxr_dist.errors import UserError, require
from cxr_dist.files import locked, sha256_of, sync_path, write_whole
from cxr_dist.model.catalogue import Layout, Published, published
from cxr_dist.model.download import download, with_retries
from cxr_dist.model.weights import IMAGE_COMPONENT, TEXT_COMPONENT, verify_component
from cxr_dist.model.weights_file import present_name
from cxr_dist.model.whole_model import whole_model_tensors

_FILES = {
    "config.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "preprocessor_config.json",
    "open_clip_config.json",
}
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_WEIGHTS_OF: dict[Layout, tuple[str, ...]] = {
    "open_clip": ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
    "whole_model": ("model.pt",),
}
"""The files of weights of a repository, the preferred one first; of other layouts, `_WEIGHTS`."""
_DOWNLOADS = "download"


def fetch(
    out: Path,
    *,
    text_encoder: str = TEXT_COMPONENT,
    endpoint: str | None = None,
    densenet_url: str = "",
) -> None:
    """Download DenseNet-121 and a text encoder into the bundle `out`, unless they are there and intact.

    `endpoint` is the model hub (None: $HF_ENDPOINT, or the public hub), and `densenet_url` a mirror of torchvision's
    file. Raises UserError as `fetch_published` does.
    """
    image, text = published(IMAGE_COMPONENT), published(TEXT_COMPONENT)
    fetch_published(out, dataclasses.replace(image, source=densenet_url or image.source, sha256=None), endpoint)
    fetch_published(out, dataclasses.replace(text, name=text_encoder, source=text_encoder), endpoint)


def fetch_published(out: Path, entry: Published, endpoint: str | None = None) -> dict[str, str]:
    """Download an entry of the catalogue into the bundle `out`, unless it is there and intact.

    Returns the sha256 of each of its files, which bundle.json keeps. Raises UserError if the network fails, if the
    downloaded bytes are not the published ones, or if these are not those of the catalogue. The bundle then holds only
    complete components, and another run continues.
    """

    def fill(folder: Path) -> dict[str, str]:
        if entry.layout == "torchvision":
            return _download_densenet(entry.source, folder)
        return _download_repository(entry, endpoint, folder)

    _fetch_component(out, entry.name, fill)
    return dict(parse_record(out / entry.name / "bundle.json", "bundle.json")["sha256"])


def _fetch_component(out: Path, name: str, fill: Callable[[Path], dict[str, str]]) -> None:
    """Fetch a component. `fill` writes its files to a folder and returns their source."""
    folder = out / name
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {out} for weights ({error.strerror}): choose one with --out") from None
    with locked(folder.with_name(folder.name + ".lock")):
        _fetch_locked(folder, name, fill)


def _fetch_locked(folder: Path, name: str, fill: Callable[[Path], dict[str, str]]) -> None:
    if (folder / "bundle.json").is_file():
        verify_component(folder)
        return
    if folder.exists():
        raise UserError(f"{folder} exists but was not created by `cxr-dist fetch`: move it, or choose another --out")
    partial = folder.with_name(folder.name + ".partial")
    (partial / _DOWNLOADS).mkdir(parents=True, exist_ok=True)
    for path in partial.iterdir():  # converted files may be of an older revision than the downloads
        if path.name != _DOWNLOADS:
            path.unlink()
    try:
        source = fill(partial)
    except UserError:
        raise
    # The hub's client changes its HTTP library, and therefore its errors, between releases.
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"cannot fetch {name}: {reason} (the bundle is unchanged; run the command again to continue)"
        ) from error
    shutil.rmtree(partial / _DOWNLOADS)
    files = sorted(partial.iterdir())
    for path in files:
        sync_path(path)
    record = {"source": source, "sha256": {path.name: sha256_of(path) for path in files}}
    write_whole(partial / "bundle.json", json.dumps(record, indent=1) + "\n")
    partial.rename(folder)
    sync_path(folder.parent)


def _download_densenet(url: str, folder: Path) -> dict[str, str]:
    """Download a torchvision file, whose name ends in the first digits of its sha256."""
    match = re.search(r"([^/]+)-([0-9a-f]{8,})\.pth$", url)
    assert match is not None, "a torchvision weights URL ends in -SHA256.pth"
    file = folder / _DOWNLOADS / f"{match.group(1)}.pth"
    download(url, file, match.group(2))
    _convert(file, folder / "model.safetensors")
    return {"url": url}


def _download_repository(entry: Published, endpoint: str | None, folder: Path) -> dict[str, str]:
    """Download a model's configuration, tokenizer and weights, at the catalogue's revision or at the newest."""
    name = entry.source
    revision, files = _published_files(name, entry.revision, endpoint)
    expected = _WEIGHTS_OF.get(entry.layout, _WEIGHTS)
    weights = next((file for file in expected if file in files), None)
    if weights is None or (entry.layout in ("transformers", "cxr_bert") and "config.json" not in files):
        raise UserError(f"{name} on the hub has no config.json with {' or '.join(expected)}")
    require(
        entry.sha256 in (None, files[weights][0]),
        f"{weights} of {name} on the hub is not the file of the catalogue: its sha256 is {files[weights][0][:16]}…, "
        f"and {(entry.sha256 or '')[:16]}… is expected",
    )
    for file in [*sorted(_FILES & set(files)), weights]:
        sha, size = files[file]
        path = folder / _DOWNLOADS / sha[:16] / file
        path.parent.mkdir(exist_ok=True)
        url = huggingface_hub.hf_hub_url(name, file, revision=revision, endpoint=endpoint)
        download(url, path, sha, size=size, headers=build_hf_headers())
        if file != weights or file.endswith(".safetensors"):
            shutil.copyfile(path, folder / file)
        elif entry.layout == "whole_model":
            save_file(whole_model_tensors(path), folder / _WEIGHTS[0], metadata={"format": "pt"})
        else:
            _convert(path, folder / expected[0])
    _check_readable(folder / (expected[0] if entry.layout != "whole_model" else _WEIGHTS[0]))
    if entry.layout == "cxr_bert":
        _call_it_bert(folder)
    return {"repository": name, "revision": revision}


def _call_it_bert(folder: Path) -> None:
    """Make a BERT with a class of its own one that transformers opens without running the repository's code."""
    for file, names in {"config.json": {"model_type": "bert"}, "tokenizer_config.json": {}}.items():
        if (folder / file).is_file():
            plain = parse_record(folder / file, file)
            kept = {key: value for key, value in plain.items() if key not in ("auto_map", "tokenizer_class")}
            kept |= names or {"tokenizer_class": "BertTokenizer"}
            (folder / file).write_text(json.dumps(kept, indent=1) + "\n")


def _published_files(
    name: str, revision: str | None, endpoint: str | None
) -> tuple[str, dict[str, tuple[str, int | None]]]:
    """The revision (None: the newest), and each file's sha256 (large files) or git blob id (small ones) and size."""
    hub = huggingface_hub.HfApi(endpoint=endpoint)
    info: Any = with_retries(lambda: hub.model_info(name, revision=revision, files_metadata=True))
    files = {s.rfilename: (s.lfs.sha256 if s.lfs else s.blob_id, s.size) for s in info.siblings}
    return info.sha, files


def _convert(source: Path, target: Path) -> None:
    """Convert a torch state dict to safetensors, and torchvision's old DenseNet names (`norm.1`) to `norm1`."""
    try:
        state: dict[str, Tensor] = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises exceptions of many kinds
        raise UserError(
            f"{source.name} does not contain tensors only ({type(error).__name__}), so it was not loaded: it could "
            "contain a program. The bundle is unchanged"
        ) from None
    renamed = {present_name(name): tensor for name, tensor in state.items()}
    # safetensors refuses tensors that share memory, such as tied decoder weights.
    save_file({k: v.clone().contiguous() for k, v in renamed.items()}, target, metadata={"format": "pt"})


def _check_readable(weights: Path) -> None:
    """Refuse a file that has the right hash and is no safetensors file, such as a committed Git LFS pointer."""
    try:
        with safe_open(weights, framework="pt") as file:
            file.keys()
    except SafetensorError:
        message = f"{weights.name} on the hub is not a safetensors file: choose another text encoder"
        raise UserError(message) from None
