"""The section `model` of a run's configuration: the network."""

import re
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from cxr_dist.config.lookup import library_of
from cxr_dist.config.range import Range, check_ranges
from cxr_dist.errors import require, unknown

Checkpointing = Literal["off", "text", "image", "all", "auto"]
Adapt = Literal["full", "head", "lora"]
RENAMED_CHECKPOINTING = {"true": "text", "false": "off"}
"""Values of `gradient_checkpointing` in older run folders and scripts -> their present names."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network."""

    mode: Literal["image", "text", "fused", "contrastive"] = "fused"
    """Input of the model: the image, the report, or both. `contrastive`: no classifier but encoders of both that learn
    which report belongs to which image, as in the run `pretrain` (docs/explanation/pretraining.md)."""
    image_encoder: str = "densenet121"
    """`densenet121`, `densenet-narrow` (the same torchvision class with few narrow layers, for the demo and tests),
    `timm:NAME` (a network of timm), `hf:DIR` (a vision backbone of Transformers or open_clip in a folder),
    `torchxrayvision:WEIGHTS`, or your own as MODULE:NAME or FILE.py:NAME, described in model/image_encoder.py and
    examples/own_encoder."""
    text_encoder: str = "emilyalsentzer/Bio_ClinicalBERT"
    """A BERT-like model: a name in the weights bundle, a local folder, or `tiny` (random initial weights); or your own
    as MODULE:NAME or FILE.py:NAME, described in model/own_parts.py, with a tokenizer built from training reports."""
    fusion: Literal["tokens", "pooled"] = "tokens"
    """`tokens`: report tokens attend to image tokens. `pooled`: a single query attends to a single key."""
    fusion_dim: Annotated[int, Range(min=1)] = 512
    """Width of the joint space of text and image features, a multiple of `fusion_heads`. In mode contrastive: length
    of an embedding."""
    fusion_heads: Annotated[int, Range(min=1)] = 8
    """Number of attention heads of the fusion, at least 1."""
    fusion_dropout: Annotated[float, Range(min=0, below=1)] = 0.1
    """Dropout rate of the attended features, 0 to below 1."""
    image_dropout: Annotated[float, Range(min=0, below=1)] = 0.0
    """Dropout rate after each dense layer of the image encoder, 0 to below 1."""
    head_dropout: Annotated[tuple[float, float], Range(min=0, below=1)] = (0.5, 0.3)
    """Dropout rates after the first and second hidden layer of the head (1024 -> 512 -> 256 -> classes)."""
    pretrained: bool = True
    """Start the encoders from the weights in the bundle; `false`: from random weights. Your own encoder loads its
    weights itself."""
    init_from: str = ""
    """A run folder, such as that of the run `pretrain`, whose encoders this run starts from in place of pretrained or
    random weights. Read until this run has a checkpoint."""
    weights: str = ""
    """The bundle that `cxr-dist fetch` wrote; if empty, $CXR_DIST_WEIGHTS, else ~/.cache/cxr_dist/weights."""
    image_weights: str = ""
    """Start the image encoder from the weights in this file, .safetensors or .pth, in place of those of the bundle.
    The file is read when a run begins, and not when it resumes."""
    allow_partial: bool = False
    """Also take `image_weights` of which some tensors are missing, of another shape or unknown to the encoder."""
    adapt: Adapt = "full"
    """What is trained of the encoders: `full`, all parameters; `head`, none, only fusion and head; `lora`, low-rank
    adapters in their linear layers, or in the convolutions of an encoder without any (needs the extra `adapters`)."""
    lora_rank: Annotated[int, Range(min=1, max=1024)] = 8
    """Rank of the adapters of `adapt` lora, 1 to 1024."""
    lora_alpha: Annotated[float, Range(above=0)] = 16.0
    """The adapters' output is multiplied by `lora_alpha` / `lora_rank`; above 0."""
    gradient_checkpointing: Checkpointing = "off"
    """Recompute activations in the backward pass to save memory at the cost of time: of each layer of the `text`
    encoder, of each dense layer of the `image` encoder up to its 3×3 convolution, or of `all`. `auto` chooses at each
    start the first of off, image, text and all with which a step is predicted to fit the device (`cxr-dist plan`)."""
    sync_batchnorm: bool = False
    """Compute BatchNorm statistics over the micro-batches of all ranks, for micro-batches that are too small for their
    own. Results then depend on the world size. Without effect on a single rank."""

    def __post_init__(self) -> None:
        check_ranges(self, "model")
        require(
            self.fusion_dim % self.fusion_heads == 0,
            f"model.fusion_dim {self.fusion_dim} is not a multiple of model.fusion_heads {self.fusion_heads}",
        )
        require(
            not self.image_weights or self.uses_image,
            f"model.mode {self.mode} has no image encoder to start from model.image_weights: leave it out",
        )
        require(
            not (self.init_from and self.image_weights),
            "model.init_from and model.image_weights both start the image encoder: leave one of them out",
        )
        if self.adapt not in get_args(Adapt):
            raise unknown("model.adapt", self.adapt, get_args(Adapt))
        require(
            self.adapt == "full" or not self.is_contrastive,
            f"model.adapt {self.adapt} is for classifiers, and pretraining trains whole encoders: leave it out",
        )
        valid = get_args(Checkpointing)
        if self.gradient_checkpointing not in valid:
            raise unknown("model.gradient_checkpointing", self.gradient_checkpointing, valid)

    @property
    def uses_image(self) -> bool:
        """Whether the image is an input of the model."""
        return self.mode != "text"

    @property
    def uses_text(self) -> bool:
        """Whether the report is an input of the model."""
        return self.mode != "image"

    @property
    def is_contrastive(self) -> bool:
        """Whether the network is `Contrastive`, which compares images with reports, and no classifier."""
        return self.mode == "contrastive"

    @property
    def checkpoints_image(self) -> bool:
        """Whether the image encoder's activations are recomputed in the backward pass."""
        return self.uses_image and self.gradient_checkpointing in ("image", "all")

    @property
    def checkpoints_text(self) -> bool:
        """Whether the text encoder's activations are recomputed in the backward pass."""
        return self.uses_text and self.gradient_checkpointing in ("text", "all")

    @property
    def has_own_text_encoder(self) -> bool:
        """Whether the text encoder is the user's own code, rather than a folder or a name in the weights bundle."""
        return re.fullmatch(r"(.+\.py|[\w.]+):\w+", self.text_encoder) is not None

    @property
    def named_parts(self) -> dict[str, tuple[str, ...]]:
        """Field -> the encoder that it names, for those that the model uses and `look_up` resolves."""
        parts: dict[str, tuple[str, ...]] = {}
        if self.uses_image and not library_of(self.image_encoder):
            parts["model.image_encoder"] = (self.image_encoder,)
        if self.uses_text and self.has_own_text_encoder:
            parts["model.text_encoder"] = (self.text_encoder,)
        return parts

    @property
    def has_own_encoder(self) -> bool:
        """Whether an encoder that the model uses is the user's own."""
        return any(":" in name for (name,) in self.named_parts.values())
