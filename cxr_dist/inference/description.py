"""config.json of an exported model: everything about a trained model but its tensors and its tokenizer."""

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from cxr_dist import __version__
from cxr_dist.config.data import DataConfig
from cxr_dist.config.decode import decode
from cxr_dist.config.file import to_plain
from cxr_dist.config.model import ModelConfig
from cxr_dist.config.range import Range, check_ranges
from cxr_dist.config.run import Config, Precision
from cxr_dist.errors import require
from cxr_dist.evaluate.calibration import Calibrator
from cxr_dist.evaluate.set_rule import SetThresholds, outcomes_of
from cxr_dist.format.manifest import MOST_VIEWS, Task
from cxr_dist.model.encoder_kind import GreyLevels
from cxr_dist.model.image_encoder import image_encoder_kind
from cxr_dist.model.weights import encoder_name
from cxr_dist.run.parts import PartsRecord

EXPORT_FORMAT = "cxr_dist model"
EXPORT_FORMAT_VERSION = 2  # version 2 has a calibrator, not a temperature, thresholds and the stored sections
READABLE = (1, 2)
"""Format versions that this release reads."""
CONFIG = "config.json"

# Fields of ModelConfig that change no prediction of a trained model.
_OF_TRAINING_ONLY = (
    *("init_from", "weights", "image_weights", "allow_partial", "gradient_checkpointing"),
    *("adapt", "lora_rank", "lora_alpha"),  # adapters are merged
)
_LATER = ("sync_batchnorm",)  # fields with a default that the exports of the first releases do not have


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
    redact: tuple[str, ...] = ()
    """The terms that were replaced in the reports of those shards."""
    parts: PartsRecord = dataclasses.field(default_factory=dict)
    """The user-defined encoders."""
    calibrator: Calibrator | None = None
    """The calibrator that an evaluation of this checkpoint chose on validation; None without such an evaluation."""
    thresholds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Class -> the threshold of its calibrated probability that this evaluation chose."""
    sets: SetThresholds = dataclasses.field(default_factory=dict)
    """The thresholds of the prediction sets that this evaluation chose; empty without any."""

    @property
    def views(self) -> int:
        """The largest number of images per sample in training; 1 if every image was a sample."""
        return self.image.get("views", 1)

    @property
    def levels(self) -> GreyLevels:
        """How the images of the image encoder are normalised."""
        return image_encoder_kind(self.config.model.image_encoder).levels

    def to_json(self) -> str:
        """The text of config.json; equal descriptions give equal bytes."""
        model = dataclasses.asdict(self.config.model)
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
            "text": self._text() if self.config.model.uses_text else None,
            "precision": self.config.precision,
            "seed": self.config.seed,
            "checkpoint_step": self.step,
            "manifest_sha256": self.manifest_sha256,
            "calibrator": to_plain(self.calibrator),
            "thresholds": dict(self.thresholds),
            "note": "research software, not for clinical use",
        }
        plain |= {"sets": dict(self.sets)} if self.sets else {}
        plain |= {"parts": to_plain(self.parts)} if self.parts else {}
        return json.dumps(plain, indent=1, ensure_ascii=False) + "\n"

    def _input_image(self) -> dict[str, int | float]:
        mean, deviation = self.levels
        return {"size": self.config.data.image_size, "channels": 1, "mean": mean, "deviation": deviation}

    def _text(self) -> dict[str, Any]:
        data = self.config.data
        facts = {"sections": data.text_sections, "max_tokens": data.max_tokens}
        return facts | {"stored_sections": self.stored_sections, "reader": self.reader, "redact": self.redact}

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
            thresholds=stored.thresholds,
            sets=stored.sets,
            stored_sections=() if stored.text is None else stored.text.stored_sections,
            reader="" if stored.text is None else stored.text.reader,
            redact=() if stored.text is None else stored.text.redact,
        )


@dataclass(frozen=True, kw_only=True)
class _StoredImage:
    """See Manifest.image."""

    short_side: Annotated[int, Range(min=1)]
    quality: Annotated[int, Range(min=1, max=100)]
    views: Annotated[int | None, Range(min=1, max=MOST_VIEWS)] = None

    def __post_init__(self) -> None:
        check_ranges(self, "stored_image")


@dataclass(frozen=True, kw_only=True)
class _Image:
    """The image that the network reads, normalised by the mean and the deviation that its encoder needs."""

    size: Annotated[int, Range(min=32)]
    channels: Literal[1]
    mean: Annotated[float, Range()]
    deviation: Annotated[float, Range(above=0)]

    def __post_init__(self) -> None:
        check_ranges(self, "image")


@dataclass(frozen=True, kw_only=True)
class _Text:
    """The part of a report that the network reads, and how the reports of its shards were cut into sections.

    Version 1 has no `stored_sections`, no `reader` and no `redact`.
    """

    sections: tuple[str, ...]
    max_tokens: Annotated[int, Range(min=8)]
    stored_sections: tuple[str, ...] = ()
    reader: str = ""
    redact: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_ranges(self, "text")


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
    seed: Annotated[int, Range(min=0, max=2**31 - 1)]
    checkpoint_step: Annotated[int, Range(min=0)]
    manifest_sha256: str
    calibrator: Calibrator | None
    note: str
    thresholds: dict[str, float] = dataclasses.field(default_factory=dict)
    sets: dict[str, float | None] = dataclasses.field(default_factory=dict)
    parts: PartsRecord = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_ranges(self)
        names, model = self.classes, self.architecture
        checks = {
            "classes": (0 < len(set(names)) == len(names), "at least one name, and none twice"),
            "image": ((self.image is not None) == model.uses_image, f"what mode {model.mode} reads, or null"),
            "text": ((self.text is not None) == model.uses_text, f"what mode {model.mode} reads, or null"),
            "manifest_sha256": (bool(re.fullmatch("[0-9a-f]{64}", self.manifest_sha256)), "64 hex digits"),
            "calibrator": (
                self.calibrator is None or len(self.calibrator.bias) == len(names),
                "one value for each class, or null",
            ),
            "thresholds": (set(self.thresholds) <= set(names), "names of classes only"),
            "sets": (
                list(self.sets) in ([], outcomes_of(names, self.task)),
                "a threshold, or null, for each class or for the presence and absence of each label, in order",
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
