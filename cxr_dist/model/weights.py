"""The offline bundle of pretrained weights: fetched once where there is a network, verified where there is none.

    BUNDLE/densenet121/                      model.safetensors  bundle.json
    BUNDLE/emilyalsentzer/Bio_ClinicalBERT/  config.json  vocab.txt  model.safetensors  bundle.json

A component is downloaded aside (`NAME.partial`), converted to safetensors, hashed into its bundle.json, and
renamed last: what stands under a component's name is whole. Training ranks only read.
"""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from huggingface_hub.utils.sha import git_hash
from safetensors.torch import load_file, save_file
from torch import Tensor
from torchvision.models import DenseNet121_Weights

from cxr_dist.errors import UserError
from cxr_dist.files import sha256_of, sync_path, write_whole

IMAGE_COMPONENT = "densenet121"
TEXT_COMPONENT = "emilyalsentzer/Bio_ClinicalBERT"
_DENSENET_URL: str = DenseNet121_Weights.IMAGENET1K_V1.url
_TEXT_FILES = {
    "config.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
}


def bundle_folder(weights: str) -> Path:
    """The bundle: `weights` if set, else $CXR_DIST_WEIGHTS, else ~/.cache/cxr_dist/weights."""
    chosen = weights or os.environ.get("CXR_DIST_WEIGHTS", "")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "cxr_dist" / "weights"


def resolve_text_encoder(name_or_dir: str, bundle: Path) -> Path:
    """The folder of a text encoder: a local folder with config.json, else the bundle's component of that name.

    Raises UserError, saying how to get it, where there is neither.
    """
    for folder in (Path(name_or_dir).expanduser(), bundle / name_or_dir):
        if (folder / "config.json").is_file():
            return folder
    raise UserError(
        f"text encoder {name_or_dir!r} is neither a folder with config.json nor in the weights bundle {bundle}: "
        "run `cxr-dist fetch` on a machine with network, set --model.weights DIR or --model.text-encoder DIR, or "
        "start from scratch with --model.text-encoder tiny --model.pretrained false"
    )


def encoder_name(name_or_dir: str) -> str:
    """What to call a text encoder; of a local folder the last part: where it lay is nobody's business."""
    return Path(name_or_dir).name if name_or_dir.startswith(("/", ".", "~")) else name_or_dir


def image_weights(bundle: Path) -> dict[str, Tensor]:
    """DenseNet-121's ImageNet weights by torchvision's names, on the CPU, checked by sha256."""
    folder = bundle / IMAGE_COMPONENT
    if not (folder / "bundle.json").is_file():
        raise UserError(
            f"no DenseNet-121 weights in the bundle {bundle}: run `cxr-dist fetch` on a machine with network, "
            "set --model.weights DIR, or use --model.pretrained false"
        )
    verify_component(folder)
    weights: dict[str, Tensor] = load_file(folder / "model.safetensors")
    return weights


def verify_component(folder: Path) -> None:
    """Compare a component's files with the sha256 in its bundle.json; raises UserError naming the first bad one.

    A folder without bundle.json, which `fetch` did not make, passes.
    """
    record = folder / "bundle.json"
    if not record.is_file():
        return
    for name, sha256 in json.loads(record.read_text())["sha256"].items():
        if not (folder / name).is_file() or sha256_of(folder / name) != sha256:
            raise UserError(
                f"{folder.name}/{name} in the weights bundle is missing or damaged: remove {folder} and run "
                "`cxr-dist fetch` again"
            )


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


def _fetch_component(out: Path, name: str, download: Callable[[Path], dict[str, str]]) -> None:
    """`download` fills a folder and returns where its content came from."""
    folder = out / name
    if (folder / "bundle.json").is_file():
        verify_component(folder)
        return
    if folder.exists():
        raise UserError(
            f"{folder} exists but `cxr-dist fetch` did not make it: move it, or choose another --out"
        )
    aside = folder.with_name(folder.name + ".partial")
    (aside / "download").mkdir(parents=True, exist_ok=True)
    try:
        source = download(aside)
    except UserError:
        raise
    # The hub's client changes its HTTP library, and so its errors, between releases.
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"cannot fetch {name}: {reason} (nothing was put under its name; run it again)"
        ) from error
    shutil.rmtree(aside / "download")
    files = [path for path in sorted(aside.iterdir()) if path.name != "bundle.json"]
    for path in files:
        sync_path(path)
    record = {"source": source, "sha256": {path.name: sha256_of(path) for path in files}}
    write_whole(aside / "bundle.json", json.dumps(record, indent=1) + "\n")
    aside.rename(folder)
    sync_path(folder.parent)


def _download_densenet(url: str, folder: Path) -> dict[str, str]:
    """The file's name ends in the first digits of its sha256, as torchvision's do."""
    match = re.search(r"-([0-9a-f]{8,})\.pth$", url)
    assert match is not None, "a torchvision weights URL ends in -SHA256.pth"
    file = folder / "download" / "densenet121.pth"
    torch.hub.download_url_to_file(url, str(file), hash_prefix=match.group(1))
    _convert(file, folder / "model.safetensors")
    return {"url": url}


def _download_text(name: str, endpoint: str | None, folder: Path) -> dict[str, str]:
    """A model's configuration, tokenizer and weights at the hub's newest revision."""
    revision, published = _published_files(name, endpoint)
    weights = next((w for w in ("model.safetensors", "pytorch_model.bin") if w in published), None)
    if weights is None or "config.json" not in published:
        raise UserError(f"{name} on the hub has no config.json with model.safetensors or pytorch_model.bin")
    for file in [*sorted(_TEXT_FILES & set(published)), weights]:
        path = huggingface_hub.hf_hub_download(
            name, file, revision=revision, endpoint=endpoint, local_dir=folder / "download"
        )
        _check_published(Path(path), published[file])
        if file == "pytorch_model.bin":
            _convert(Path(path), folder / "model.safetensors")
        else:
            shutil.copyfile(path, folder / file)
    return {"repository": name, "revision": revision}


def _published_files(name: str, endpoint: str | None) -> tuple[str, dict[str, Any]]:
    """The newest revision, and for each file its sha256 (large files) or git blob id (small ones)."""
    info = huggingface_hub.HfApi(endpoint=endpoint).model_info(name, files_metadata=True)
    return info.sha, {s.rfilename: s.lfs.sha256 if s.lfs else s.blob_id for s in info.siblings}


def _check_published(path: Path, published: str) -> None:
    found = sha256_of(path) if len(published) == 64 else git_hash(path.read_bytes())
    if found != published:
        path.unlink()
        raise UserError(
            f"{path.name} arrived damaged: its hash is {found[:16]}…, the hub says {published[:16]}…; nothing "
            "was put under its name, run `cxr-dist fetch` again"
        )


def _convert(source: Path, target: Path) -> None:
    """A torch state dict to safetensors, with torchvision's old DenseNet names (`norm.1`) made `norm1`."""
    state: dict[str, Tensor] = torch.load(source, map_location="cpu", weights_only=True)
    renamed = {
        re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.", r"\1\2.", k): v for k, v in state.items()
    }
    # safetensors refuses tensors that share memory, such as a tied decoder.
    save_file({k: v.clone().contiguous() for k, v in renamed.items()}, target, metadata={"format": "pt"})
