"""The format of an exported model: a folder that can be used without shards, run folder or internet access.

    EXPORT/config.json  model.safetensors  text_encoder/  model.onnx  README.md  SHA256SUMS

`read` checks the files that it reads against SHA256SUMS, as `sha256sum --check SHA256SUMS` does for all. model.onnx
is optional and is for other runtimes. README.md, the model card, has no checksum, so that people can edit it.
"""

import dataclasses
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from safetensors.torch import load_file, save_file
from torch import Tensor

from cxr_dist import __version__
from cxr_dist.config.data import DataConfig
from cxr_dist.config.decode import decode, parse_json
from cxr_dist.config.file import to_plain
from cxr_dist.config.model import ModelConfig
from cxr_dist.config.run import Config, Precision
from cxr_dist.errors import UserError, require
from cxr_dist.evaluate.calibration import Calibrator
from cxr_dist.files import sha256_of
from cxr_dist.format.manifest import MOST_VIEWS, Task
from cxr_dist.model.image_encoder import image_encoder_kind
from cxr_dist.model.weights import encoder_name
from cxr_dist.run.parts import PartsRecord

EXPORT_FORMAT = "cxr_dist model"
EXPORT_FORMAT_VERSION = 2  # version 2 has a calibrator in place of a temperature
_READABLE = (1, 2)
CONFIG, WEIGHTS, TEXT_ENCODER, GRAPH = "config.json", "model.safetensors", "text_encoder", "model.onnx"
SUMS, CARD = "SHA256SUMS", "README.md"

_OF_TRAINING_ONLY = ("weights", "gradient_checkpointing")  # fields of ModelConfig that change no prediction
_LATER = ("sync_batchnorm",)  # fields with a default that the exports of the first releases do not have
_MACHINE_KEYS = ("_name_or_path", "name_or_path", "tokenizer_file", "special_tokens_map_file")


@dataclass(frozen=True, kw_only=True)
class Description:
    """Everything about a trained model but its tensors and its tokenizer."""

    config: Config
    task: Task
    classes: tuple[str, ...]
    image: dict[str, int]
    """`short_side` (pixels) and `quality` of the JPEGs that it was trained on, and `views`; see Manifest.image."""
    step: int
    """The checkpoint's optimizer step."""
    manifest_sha256: str
    """The sha256 of the manifest of the shards that it was trained on."""
    stored_sections: tuple[str, ...] = ()
    """All sections of the reports in those shards; empty if that is not known."""
    reader: str = ""
    """The reader of those shards, whose rules cut a report into sections; empty if that is not known."""
    parts: PartsRecord = dataclasses.field(default_factory=dict)
    """The user-defined encoders."""
    calibrator: Calibrator | None = None
    """The calibrator that an evaluation of this checkpoint chose on validation; None without such an evaluation."""

    @property
    def views(self) -> int:
        """The largest number of images per sample in training; 1 if every image was a sample."""
        return self.image.get("views", 1)

    def to_json(self) -> str:
        """The text of config.json; equal descriptions give equal bytes."""
        data, model = self.config.data, dataclasses.asdict(self.config.model)
        architecture = {name: model[name] for name in model if name not in _OF_TRAINING_ONLY}
        for encoder in ("image_encoder", "text_encoder"):
            architecture[encoder] = encoder_name(architecture[encoder])
        plain = {
            "format": EXPORT_FORMAT,
            "format_version": EXPORT_FORMAT_VERSION,
            "cxr_dist_version": __version__,
            "run": self.config.run,
            "task": self.task,
            "classes": self.classes,
            "architecture": architecture,
            "stored_image": self.image,
            "image": self._input_image() if self.config.model.uses_image else None,
            "text": {"sections": data.text_sections, "max_tokens": data.max_tokens}
            if self.config.model.uses_text
            else None,
            "precision": self.config.precision,
            "seed": self.config.seed,
            "checkpoint_step": self.step,
            "manifest_sha256": self.manifest_sha256,
            "calibrator": to_plain(self.calibrator),
            "note": "research software, not for clinical use",
        }
        plain |= {"parts": to_plain(self.parts)} if self.parts else {}
        return json.dumps(plain, indent=1, ensure_ascii=False) + "\n"

    def _input_image(self) -> dict[str, int | float]:
        mean, deviation = image_encoder_kind(self.config.model.image_encoder).levels
        return {"size": self.config.data.image_size, "channels": 1, "mean": mean, "deviation": deviation}

    @classmethod
    def from_plain(cls, plain: object, file: str = CONFIG) -> Self:
        """The description that `to_json` wrote; raises UserError for a missing, unknown or invalid field."""
        stored = decode(_Settings, _migrated(plain), file)
        assert isinstance(plain, dict)
        for field in dataclasses.fields(ModelConfig):
            known = field.name in plain["architecture"] or field.name in (*_OF_TRAINING_ONLY, *_LATER)
            require(known, f"{file}: architecture.{field.name} is missing")
        image = dataclasses.asdict(stored.stored_image)
        return cls(
            config=stored.config(),
            task=stored.task,
            classes=stored.classes,
            image={name: value for name, value in image.items() if value is not None},
            step=stored.checkpoint_step,
            manifest_sha256=stored.manifest_sha256,
            parts=stored.parts,
            calibrator=stored.calibrator,
        )


@dataclass(frozen=True, kw_only=True)
class _StoredImage:
    """See Manifest.image."""

    short_side: int
    quality: int
    views: int | None = None

    def __post_init__(self) -> None:
        require(self.short_side >= 1, f"stored_image.short_side is {self.short_side}; it must be at least 1")
        require(1 <= self.quality <= 100, f"stored_image.quality is {self.quality}; expected 1 to 100")
        views = 1 if self.views is None else self.views
        require(1 <= views <= MOST_VIEWS, f"stored_image.views is {views}; expected 1 to {MOST_VIEWS}")


@dataclass(frozen=True, kw_only=True)
class _Image:
    """The image that the network reads, normalised by the mean and the deviation that its encoder needs."""

    size: int
    channels: Literal[1]
    mean: float
    deviation: float


@dataclass(frozen=True, kw_only=True)
class _Text:
    """The part of a report that the network reads."""

    sections: tuple[str, ...]
    max_tokens: int


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """The fields of config.json, in the order in which `to_json` writes them."""

    format: str
    format_version: int
    cxr_dist_version: str
    run: str
    task: Task
    classes: tuple[str, ...]
    architecture: ModelConfig
    stored_image: _StoredImage
    image: _Image | None
    text: _Text | None
    precision: Precision
    seed: int
    checkpoint_step: int
    manifest_sha256: str
    calibrator: Calibrator | None
    note: str
    parts: PartsRecord = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        names, model = self.classes, self.architecture
        checks = {
            "classes": (0 < len(set(names)) == len(names), "at least one name, and none twice"),
            "image": ((self.image is not None) == model.uses_image, f"what mode {model.mode} reads, or null"),
            "text": ((self.text is not None) == model.uses_text, f"what mode {model.mode} reads, or null"),
            "checkpoint_step": (self.checkpoint_step >= 0, "0 or more"),
            "manifest_sha256": (bool(re.fullmatch("[0-9a-f]{64}", self.manifest_sha256)), "64 hex digits"),
            "calibrator": (
                self.calibrator is None or len(self.calibrator.bias) == len(names),
                "one value for each class, or null",
            ),
        }
        for name, (right, expected) in checks.items():
            require(right, f"{name} is {getattr(self, name)!r}; expected {expected}")
        self.config()

    def config(self) -> Config:
        """The settings that matter for using the model; those of training have their defaults."""
        data = DataConfig()
        if self.image is not None:
            data = dataclasses.replace(data, image_size=self.image.size)
        if self.text is not None:
            data = dataclasses.replace(data, text_sections=self.text.sections, max_tokens=self.text.max_tokens)
        return Config(run=self.run, data=data, model=self.architecture, precision=self.precision, seed=self.seed)


def _migrated(plain: object) -> object:
    """Replace the temperature of version 1 by the calibrator that it amounts to."""
    if not isinstance(plain, dict) or plain.get("format_version") != 1 or "temperature" not in plain:
        return plain
    kept = {name: value for name, value in plain.items() if name != "temperature"}
    classes = plain.get("classes")
    none = [0.0] * (len(classes) if isinstance(classes, list) else 0)
    calibrator = {"prior_shift": none, "temperature": plain["temperature"], "bias": none}
    return kept | {"calibrator": None if plain["temperature"] is None else calibrator}


def write_weights(folder: Path, description: Description, tensors: dict[str, Tensor]) -> None:
    """Write config.json and model.safetensors into an existing folder."""
    (folder / CONFIG).write_text(description.to_json(), encoding="utf-8")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    shutil.copymode(folder / CONFIG, folder / WEIGHTS)  # safetensors makes the file readable by its owner only


def write_text_encoder(folder: Path, source: Path) -> None:
    """Copy the run's text encoder, without the local paths that other tools write into its JSON files."""
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
    """Write SHA256SUMS, in the format of sha256sum, for all files but the model card."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in (SUMS, CARD))
    lines = [f"{sha256_of(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def read(folder: Path) -> tuple[Description, dict[str, Tensor]]:
    """The description and the tensors of an exported model, after a check of their sha256.

    Raises UserError for a folder that is missing, damaged, not an exported model, or written by a newer release.
    """
    plain = _recognise(folder)
    _check_sums(folder)
    return Description.from_plain(plain, f"{CONFIG} in {folder}"), load_file(folder / WEIGHTS)


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
    if version not in _READABLE:
        raise UserError(
            f"the model in {folder} has format version {version}, written by cxr_dist "
            f"{plain.get('cxr_dist_version')}; this release, {__version__}, reads versions {_READABLE}: "
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
