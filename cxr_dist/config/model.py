"""The section `model` of a run's configuration: the network."""

import re
from dataclasses import dataclass
from typing import Literal, get_args

from cxr_dist.errors import require, unknown

Checkpointing = Literal["off", "text", "image", "all", "auto"]
RENAMED_CHECKPOINTING = {"true": "text", "false": "off"}
"""What `gradient_checkpointing` was before it had names, as run folders and scripts may still say it."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network."""

    mode: Literal["image", "text", "fused"] = "fused"
    """What the model sees: the film, the report, or both."""
    image_encoder: str = "densenet121"
    """`densenet121`; `densenet-narrow`, the same torchvision class with few, thin layers, for the demo and tests; or
    one of your own, MODULE:NAME or FILE.py:NAME, as model/image_encoder.py and examples/own_encoder show."""
    text_encoder: str = "emilyalsentzer/Bio_ClinicalBERT"
    """A BERT-like model: a name in the weights bundle, a local folder, or `tiny` (made from scratch). Or one of your
    own, MODULE:NAME or FILE.py:NAME, as model/own_parts.py says, with a tokenizer made from the training reports."""
    fusion: Literal["tokens", "pooled"] = "tokens"
    """`tokens`: report tokens attend to image tokens. `pooled`: one query, one key, as in the original."""
    fusion_dim: int = 512
    """Width of the shared space in which text and image meet."""
    fusion_heads: int = 8
    """Attention heads in the fusion."""
    fusion_dropout: float = 0.1
    """Dropout on the attended features."""
    image_dropout: float = 0.0
    """Dropout after each dense layer of the image encoder; its published weights were trained without."""
    head_dropout: tuple[float, float] = (0.5, 0.3)
    """Dropout after the first and the second hidden layer of the head (1024 -> 512 -> 256 -> classes)."""
    pretrained: bool = True
    """Start from the bundle's weights. `false` starts the encoders from random numbers. An encoder of your own loads
    its weights by itself."""
    weights: str = ""
    """The bundle that `cxr-dist fetch` made; empty: $CXR_DIST_WEIGHTS, else ~/.cache/cxr_dist/weights."""
    gradient_checkpointing: Checkpointing = "off"
    """Recompute activations in the backward pass, for less memory and more time: `text` the text encoder's layer by
    layer; `image` each dense layer of the image encoder up to its 3×3 convolution; `all` both. `auto`: at each
    start the least of these with which a step fits the device, as `cxr-dist plan` predicts it."""
    sync_batchnorm: bool = False
    """BatchNorm over the micro-batches that all ranks compute at the same moment, where one is too small for
    statistics of its own. The price: results then depend on the world size. A single rank has plain BatchNorm."""

    def __post_init__(self) -> None:
        require(
            self.fusion_dim >= self.fusion_heads >= 1 and self.fusion_dim % self.fusion_heads == 0,
            f"model.fusion_dim {self.fusion_dim} is not a multiple of model.fusion_heads {self.fusion_heads}",
        )
        if self.gradient_checkpointing not in get_args(Checkpointing):
            raise unknown(
                "model.gradient_checkpointing", self.gradient_checkpointing, get_args(Checkpointing)
            )
        for rate in (self.image_dropout, self.fusion_dropout, *self.head_dropout):
            require(0 <= rate < 1, f"dropout rate {rate} is outside [0, 1)")

    @property
    def uses_image(self) -> bool:
        """Whether the film enters the model."""
        return self.mode in ("image", "fused")

    @property
    def checkpoints_image(self) -> bool:
        """Whether the image encoder's activations are computed again in the backward pass."""
        return self.uses_image and self.gradient_checkpointing in ("image", "all")

    @property
    def checkpoints_text(self) -> bool:
        """Whether the text encoder's activations are computed again in the backward pass."""
        return self.uses_text and self.gradient_checkpointing in ("text", "all")

    @property
    def has_own_text_encoder(self) -> bool:
        """Whether the text encoder is the user's own, and not a folder or a name in the weights bundle."""
        return re.fullmatch(r"(.+\.py|[\w.]+):\w+", self.text_encoder) is not None

    @property
    def named_parts(self) -> dict[str, tuple[str, ...]]:
        """Field -> the encoder that it names, of those that the model uses and look_up finds."""
        parts: dict[str, tuple[str, ...]] = {}
        if self.uses_image:
            parts["model.image_encoder"] = (self.image_encoder,)
        if self.uses_text and self.has_own_text_encoder:
            parts["model.text_encoder"] = (self.text_encoder,)
        return parts

    @property
    def has_own_encoder(self) -> bool:
        """Whether an encoder that the model uses is the user's own."""
        return any(":" in name for (name,) in self.named_parts.values())

    @property
    def uses_text(self) -> bool:
        """Whether the report enters the model."""
        return self.mode in ("text", "fused")
