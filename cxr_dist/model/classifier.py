"""The whole network, from normalised images and token ids to logits: encoders, summary and head.

`encode` is the expensive part. `classify` starts from its features, so that Monte-Carlo dropout in fusion and head
(monte_carlo.py) repeats only small layers.
"""

from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from cxr_dist.config.lookup import guarded, look_up
from cxr_dist.config.model import ModelConfig
from cxr_dist.errors import UserError
from cxr_dist.model.encoder_kind import IMAGENET, GreyLevels, ImageEncoderKind
from cxr_dist.model.fusion import (
    Features,
    Fusion,
    ImageSummary,
    PooledFusion,
    Summary,
    TextSummary,
    TokenFusion,
)
from cxr_dist.model.image_encoder import image_encoder_kind
from cxr_dist.model.inputs import Inputs
from cxr_dist.model.view_pooling import of_samples
from cxr_dist.model.weights import bundle_folder, verify_component

_HIDDEN = (512, 256)


class Head(nn.Module):
    """input -> 512 -> 256 -> classes, with ReLU and dropout after each hidden layer."""

    def __init__(self, width: int, num_classes: int, dropout: tuple[float, float]) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, _HIDDEN[0]), nn.Linear(*_HIDDEN)
        self.output = nn.Linear(_HIDDEN[1], num_classes)
        self.first_dropout = nn.Dropout(dropout[0])
        self.second_dropout = nn.Dropout(dropout[1])

    def forward(self, summary: Tensor) -> Tensor:
        """Map summaries [n, width] to logits [n, C]."""
        hidden = self.first_dropout(functional.relu(self.first(summary)))
        hidden = self.second_dropout(functional.relu(self.second(hidden)))
        logits: Tensor = self.output(hidden)
        return logits


class Encoders(nn.Module):
    """The encoders of a model, of which one may be None. The parallel engine wraps the `forward` of a subclass."""

    def __init__(self, *, image: nn.Module | None, text: nn.Module | None, levels: GreyLevels = IMAGENET) -> None:
        """`levels` says how the images for the image encoder are normalised."""
        super().__init__()
        self.levels = levels
        self.image, self.text = image, text
        self._encoders_frozen = False
        self.train_only = ""
        """If not empty, only the encoders' parameters with this in their name are trained (adapt.py)."""

    def encode(self, inputs: Inputs) -> Features:
        """Run the encoders, without gradients if they are frozen."""
        image_tokens = image_pooled = text_tokens = None
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._encoders_frozen):
            if self.image is not None:
                image_tokens, image_pooled = self.image(inputs.images)
                if inputs.view_rows is not None:
                    image_tokens, image_pooled = of_samples(image_tokens, image_pooled, inputs.view_rows)
            if self.text is not None:
                text_tokens = self.text(inputs.tokens, inputs.attention_mask, inputs.token_positions)
        return Features(
            image_tokens=image_tokens,
            image_pooled=image_pooled,
            view_rows=inputs.view_rows if self.image is not None else None,
            text_tokens=text_tokens,
            attention_mask=inputs.attention_mask if self.text is not None else None,
        )

    def set_encoders_frozen(self, frozen: bool) -> None:
        """Freeze or unfreeze the encoders. The parallel wrapper must be rebuilt afterwards.

        Frozen encoders get no gradients and stay in eval mode, also after `train()`, so that their BatchNorm statistics
        do not change and their dropout is off. Of encoders with adapters only these are unfrozen, and BatchNorm stays
        in eval mode.
        """
        self._encoders_frozen = frozen
        for encoder in self._encoders():
            for name, parameter in encoder.named_parameters():
                parameter.requires_grad_(not frozen and self.train_only in name)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set train or eval mode, except for frozen encoders and frozen BatchNorm, which stay in eval mode."""
        super().train(mode)
        for encoder in self._encoders():
            encoder.train(mode and not self._encoders_frozen)
            for layer in encoder.modules():
                if self.train_only and isinstance(layer, nn.modules.batchnorm._BatchNorm):
                    layer.eval()
        return self

    def _encoders(self) -> list[nn.Module]:
        return [encoder for encoder in (self.image, self.text) if encoder is not None]


class Classifier(Encoders):
    """Image, text or fused classifier."""

    def __init__(
        self,
        *,
        image: nn.Module | None,
        text: nn.Module | None,
        summary: Summary,
        head: nn.Module,
        levels: GreyLevels = IMAGENET,
    ) -> None:
        """`head` maps summaries [n, summary.width] to logits [n, C], as `Head` does."""
        super().__init__(image=image, text=text, levels=levels)
        self.summary, self.head = summary, head

    def forward(self, *inputs: Tensor | None) -> Tensor:
        """Map the fields of `Inputs`, in their order, to logits [b, C]."""
        return self.classify(self.encode(Inputs(*inputs)))

    def classify(self, features: Features) -> Tensor:
        """Map the features of b samples to logits [b, C]."""
        logits: Tensor = self.head(self.summary.drop(self.summary(features)))
        return logits

    def attention_weights(self, features: Features) -> Tensor | None:
        """[b, T, n]: the attention of each report token to each image token; None if there is no attention."""
        return self.summary.attention_weights(features)


def build_classifier(
    config: ModelConfig, num_classes: int, text_folder: Path | None, image_kind: ImageEncoderKind | None = None
) -> Classifier:
    """The network with random weights, which depend on `torch.manual_seed`.

    `text_folder` contains the text encoder's config.json. It may be None in image mode. `image_kind` is the image
    encoder's kind for the size of the run's images (None: for the size that it has by itself).
    """
    image, text, levels = build_encoders(config, text_folder, image_kind)
    summary = _build_summary(config, image, text)
    head = Head(summary.width, num_classes, config.head_dropout)
    return Classifier(image=image, text=text, summary=summary, head=head, levels=levels)


def build_encoders(
    config: ModelConfig, text_folder: Path | None, image_kind: ImageEncoderKind | None = None
) -> tuple[Any, Any, GreyLevels]:
    """The image and the text encoder with random weights, None for an input that is not read, and the grey levels."""
    image = text = None
    levels = IMAGENET
    if config.uses_image:
        kind = image_kind or image_encoder_kind(config.image_encoder)
        image, levels = kind.build(config), kind.levels
    if config.uses_text:
        assert text_folder is not None, "a model that reads reports needs the text encoder's folder"
        text = build_text_encoder(config, text_folder)
    return image, text, levels


def build_text_encoder(config: ModelConfig, folder: Path) -> nn.Module:
    """The user's text encoder, or a BERT-like encoder with random weights that FOLDER/config.json describes."""
    name = config.text_encoder
    if config.has_own_text_encoder:
        with guarded("text encoder", name):
            encoder: nn.Module = look_up("text encoder", name, {})(folder, config)
        return encoder
    from cxr_dist.model.text_encoder import TextEncoder  # transformers is slow to import

    return TextEncoder(folder, gradient_checkpointing=config.checkpoints_text)


def _build_summary(config: ModelConfig, image: Any, text: Any) -> Summary:
    if text is None:
        return ImageSummary(image.width)
    if image is None:
        return TextSummary(text.width, 2 * config.fusion_dim)
    fusion: type[Fusion] = {"tokens": TokenFusion, "pooled": PooledFusion}[config.fusion]
    return fusion(
        image_width=image.width,
        text_width=text.width,
        dimension=config.fusion_dim,
        heads=config.fusion_heads,
        dropout=config.fusion_dropout,
    )


def load_pretrained(
    model: Encoders, config: ModelConfig, text_source: Path | None, image_kind: ImageEncoderKind | None = None
) -> None:
    """Load pretrained weights: for the image encoder from the bundle, for the text encoder from `text_source`.

    An image encoder without published weights, or with a file of its own (run/image_weights.py), is not changed, nor is
    the text encoder if `text_source` is None. Raises UserError if weights are missing or damaged, or do not fit.
    """
    if model.image is not None and not config.image_weights:
        (image_kind or image_encoder_kind(config.image_encoder)).load(model.image, bundle_folder(config.weights))
    if model.text is not None and text_source is not None:
        load_text_encoder(model.text, text_source)


def load_text_encoder(encoder: nn.Module, folder: Path) -> None:
    """Load FOLDER/model.safetensors, after checking its sha256 if `cxr-dist fetch` created the folder."""
    if not (folder / "model.safetensors").is_file():
        raise UserError(
            f"no model.safetensors in the text encoder's folder {folder}: choose a folder that has one "
            "(--model.text-encoder DIR), or use --model.pretrained false"
        )
    verify_component(folder)
    encoder.load(folder)  # type: ignore[operator]
