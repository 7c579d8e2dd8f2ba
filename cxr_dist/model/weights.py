"""Read the offline bundle of pretrained weights, which consists of local files that are checked by sha256.

    BUNDLE/densenet121/                      model.safetensors  bundle.json
    BUNDLE/emilyalsentzer/Bio_ClinicalBERT/  config.json  vocab.txt  model.safetensors  bundle.json

`cxr-dist fetch` (fetch.py) creates the bundle on a machine with network. A component under its name is complete.
"""

import os
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from cxr_dist.config.decode import parse_record
from cxr_dist.config.lookup import recorded_name
from cxr_dist.config.model import ModelConfig
from cxr_dist.errors import UserError
from cxr_dist.files import sha256_of

IMAGE_COMPONENT = "densenet121"
TEXT_COMPONENT = "emilyalsentzer/Bio_ClinicalBERT"


def bundle_folder(weights: str) -> Path:
    """The bundle's folder: `weights` if set, else $CXR_DIST_WEIGHTS, else ~/.cache/cxr_dist/weights."""
    chosen = weights or os.environ.get("CXR_DIST_WEIGHTS", "")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "cxr_dist" / "weights"


def resolve_text_encoder(name_or_dir: str, bundle: Path) -> Path:
    """The folder of a text encoder: a local folder with config.json, or else the bundle's component of that name.

    Raises UserError with instructions if neither exists.
    """
    for folder in (Path(name_or_dir).expanduser(), bundle / name_or_dir):
        if (folder / "config.json").is_file():
            return folder
    raise UserError(
        f"text encoder {name_or_dir!r} is neither a folder with config.json nor in the weights bundle {bundle}: "
        "run `cxr-dist fetch` on a machine with network, set --model.weights DIR or --model.text-encoder DIR, or "
        "start from scratch with --model.text-encoder tiny --model.pretrained false"
    )


def text_source(config: ModelConfig) -> Path | None:
    """The folder of the text encoder's configuration, tokenizer and weights; raises UserError if it is missing.

    None for `tiny` and for a user's text encoder, whose tokenizer is learned from the training reports.
    """
    if config.text_encoder == "tiny" or config.has_own_text_encoder:
        return None
    return resolve_text_encoder(config.text_encoder, bundle_folder(config.weights))


def encoder_name(name_or_dir: str) -> str:
    """The name of an encoder for reports. For a local folder it is the last part, to keep the path private."""
    name = recorded_name(name_or_dir)
    return Path(name).name if name.startswith(("/", ".", "~")) else name


def component_weights(bundle: Path, component: str) -> dict[str, Tensor]:
    """A component's tensors by their published names, on the CPU; raises UserError if they are missing or damaged."""
    folder = bundle / component
    if not (folder / "bundle.json").is_file():
        raise UserError(
            f"no {component} weights in the bundle {bundle}: run `cxr-dist fetch` on a machine with network, "
            "set --model.weights DIR, or use --model.pretrained false"
        )
    verify_component(folder)
    weights: dict[str, Tensor] = load_file(folder / "model.safetensors")
    return weights


def verify_component(folder: Path) -> None:
    """Compare a component's files with the sha256 in its bundle.json; raises UserError for the first that differs.

    A folder without bundle.json, which `fetch` did not create, is not checked.
    """
    record = folder / "bundle.json"
    if not record.is_file():
        return
    sums = parse_record(record, f"bundle.json of {folder.name}").get("sha256")
    if not isinstance(sums, dict):
        raise UserError(f"bundle.json of {folder.name} is damaged: remove {folder} and run `cxr-dist fetch` again")
    for name, sha256 in sums.items():
        if not (folder / name).is_file() or sha256_of(folder / name) != sha256:
            raise UserError(
                f"{folder.name}/{name} in the weights bundle is missing or damaged: remove {folder} and run "
                "`cxr-dist fetch` again"
            )
