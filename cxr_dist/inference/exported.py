"""The format of an exported model: a folder that needs no shards, no run folder and no network.

    EXPORT/config.json  model.safetensors  text_encoder/  model.onnx  README.md  SHA256SUMS

`sha256sum --check SHA256SUMS` checks all of it by hand; `read` checks what it reads, and can do without
model.onnx, which is for other runtimes. README.md, the model card, has no sum: people edit it.
"""

import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from safetensors.torch import load_file, save_file
from torch import Tensor

from cxr_dist import __version__
from cxr_dist.config.data import DataConfig
from cxr_dist.config.model import ModelConfig
from cxr_dist.config.run import Config
from cxr_dist.errors import UserError
from cxr_dist.files import sha256_of
from cxr_dist.format.manifest import Task
from cxr_dist.model.image_encoder import GREY_DEVIATION, GREY_MEAN
from cxr_dist.model.weights import encoder_name

FORMAT = "cxr_dist model"
FORMAT_VERSION = 1
CONFIG, WEIGHTS, TEXT_ENCODER, GRAPH = "config.json", "model.safetensors", "text_encoder", "model.onnx"
SUMS, CARD = "SHA256SUMS", "README.md"

_OF_TRAINING_ONLY = ("weights", "gradient_checkpointing")  # fields of ModelConfig that change no answer
_MACHINE_KEYS = ("_name_or_path", "name_or_path", "tokenizer_file", "special_tokens_map_file")


@dataclass(frozen=True, kw_only=True)
class Description:
    """What there is to say of a trained model beside its tensors and its tokenizer."""

    config: Config
    task: Task
    classes: tuple[str, ...]
    image: dict[str, int]
    """`short_side` (pixels) and `quality` of the JPEGs that it was trained on, and `views`: see Manifest.image."""
    step: int
    """The checkpoint's optimizer step."""
    manifest_sha256: str
    """Of the shards that it was trained on."""
    temperature: float | None = None
    """That an evaluation of this checkpoint chose on validation; None without one."""

    @property
    def views(self) -> int:
        """Most films of a sample that it was trained on; 1 where each film was a sample."""
        return self.image.get("views", 1)

    def to_json(self) -> str:
        """The text of config.json: the same description gives the same bytes."""
        data, model = self.config.data, dataclasses.asdict(self.config.model)
        architecture = {name: model[name] for name in model if name not in _OF_TRAINING_ONLY}
        architecture["text_encoder"] = encoder_name(self.config.model.text_encoder)
        film = {"size": data.image_size, "channels": 1, "mean": GREY_MEAN, "deviation": GREY_DEVIATION}
        plain = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "cxr_dist_version": __version__,
            "run": self.config.run,
            "task": self.task,
            "classes": self.classes,
            "architecture": architecture,
            "stored_image": self.image,
            "image": film if self.config.model.uses_image else None,
            "text": {"sections": data.text_sections, "max_tokens": data.max_tokens}
            if self.config.model.uses_text
            else None,
            "precision": self.config.precision,
            "seed": self.config.seed,
            "checkpoint_step": self.step,
            "manifest_sha256": self.manifest_sha256,
            "temperature": self.temperature,
            "note": "research software, not for clinical use",
        }
        return json.dumps(plain, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Self:
        """From what `to_json` wrote; raises UserError where a field is missing or unknown."""
        try:
            return cls(
                config=_config_of(plain),
                task=plain["task"],
                classes=tuple(plain["classes"]),
                image=plain["stored_image"],
                step=plain["checkpoint_step"],
                manifest_sha256=plain["manifest_sha256"],
                temperature=plain["temperature"],
            )
        except (KeyError, TypeError) as error:
            raise UserError(
                f"the model's {CONFIG} lacks or adds a field ({error}): export it again"
            ) from None


def write_weights(folder: Path, description: Description, tensors: dict[str, Tensor]) -> None:
    """Write config.json and model.safetensors into a folder that exists."""
    (folder / CONFIG).write_text(description.to_json(), encoding="utf-8")
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(whole, folder / WEIGHTS, metadata={"format": "pt"})
    shutil.copymode(folder / CONFIG, folder / WEIGHTS)  # safetensors lets only the owner read


def write_text_encoder(folder: Path, source: Path) -> None:
    """Copy the run's text encoder, its JSON without the paths that other tools leave there."""
    (folder / TEXT_ENCODER).mkdir()
    for path in sorted(source.iterdir()):
        content = path.read_bytes()
        if path.suffix == ".json":
            plain = json.loads(content)
            if any(key in plain for key in _MACHINE_KEYS):
                kept = {key: value for key, value in plain.items() if key not in _MACHINE_KEYS}
                content = (json.dumps(kept, indent=1, ensure_ascii=False) + "\n").encode("utf-8")
        (folder / TEXT_ENCODER / path.name).write_bytes(content)


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS, as sha256sum does, over all files but the model card."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in (SUMS, CARD))
    lines = [f"{sha256_of(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def read(folder: Path) -> tuple[Description, dict[str, Tensor]]:
    """The description and the tensors of an exported model, compared with their sha256 first.

    Raises UserError for a folder that is missing, damaged, not an exported model, or of a newer release.
    """
    plain = _recognise(folder)
    _check_sums(folder)
    return Description.from_plain(plain), load_file(folder / WEIGHTS)


def _recognise(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise UserError(f"no folder {folder}: expected one that `cxr-dist export` wrote")
    try:
        plain = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{folder} is neither an exported model (no {CONFIG}) nor a run folder (no config.yaml): give a "
            "folder that `cxr-dist export` or `cxr-dist train` wrote"
        ) from None
    except ValueError:
        raise UserError(f"{CONFIG} in {folder} is not JSON: copy the exported folder again") from None
    if not isinstance(plain, dict) or plain.get("format") != FORMAT:
        raise UserError(
            f"{CONFIG} in {folder} does not describe a cxr_dist model: other Hugging Face folders open with "
            "their own library"
        )
    version = plain.get("format_version")
    if version != FORMAT_VERSION:
        raise UserError(
            f"the model in {folder} has format version {version}, written by cxr_dist "
            f"{plain.get('cxr_dist_version')}; this release, {__version__}, reads version {FORMAT_VERSION}: "
            "install the release that wrote it, or a newer one"
        )
    return plain


def _check_sums(folder: Path) -> None:
    again = "copy the folder again, or export it again"
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
        sums = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
    except (OSError, ValueError):
        raise UserError(f"{SUMS} in {folder} is missing or damaged: {again}") from None
    for name in (CONFIG, WEIGHTS, *(name for name in sums if not name.startswith(GRAPH))):
        if name not in sums or not (folder / name).is_file():
            raise UserError(f"{name} of the exported model is missing: {again}")
        if sha256_of(folder / name) != sums[name]:
            raise UserError(f"{name} of the exported model does not have its sha256: {again}")


def _config_of(plain: dict[str, Any]) -> Config:
    """The configuration as far as using the model goes; what belongs to training has its defaults."""
    data = DataConfig()
    if plain["image"] is not None:
        data = dataclasses.replace(data, image_size=plain["image"]["size"])
    if plain["text"] is not None:
        sections, longest = tuple(plain["text"]["sections"]), plain["text"]["max_tokens"]
        data = dataclasses.replace(data, text_sections=sections, max_tokens=longest)
    architecture = plain["architecture"]
    dropout = tuple(architecture["head_dropout"])
    return Config(
        run=plain["run"],
        data=data,
        model=ModelConfig(**architecture | {"head_dropout": dropout}),
        precision=plain["precision"],
        seed=plain["seed"],
    )
