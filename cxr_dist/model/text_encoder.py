"""The text encoder: a BERT-like Hugging Face model from a local folder, which maps token ids to token vectors.

It reads config.json and the weights from the folder, and neither uses the network nor runs code from the folder. It has
no pooler, whose parameters would get no gradient, which is an error under DistributedDataParallel.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel
from transformers.utils import logging as transformers_logging

from cxr_dist.errors import UserError, out_of_files
from cxr_dist.model.packed_text import PACKED_ATTENTION, first_position, packed_vectors

_UNUSABLE = (
    "the text encoder's config.json does not describe a BERT-like encoder that transformers supports: use a folder "
    "with model_type bert, roberta or distilbert, for example"
)


class TextEncoder(nn.Module):
    """A BERT-like encoder with the architecture of FOLDER/config.json and random weights.

    Raises UserError if config.json is missing, is not JSON, or does not name an encoder that transformers supports.
    """

    def __init__(self, folder: Path, *, gradient_checkpointing: bool = False) -> None:
        super().__init__()
        config = _read_config(folder)
        config.use_cache = False  # only used to generate text; gradient checkpointing would warn about it
        self.width: int = config.hidden_size
        self.max_tokens: int = config.max_position_embeddings
        self._first_position = first_position(config)
        attention = {} if self._first_position is None else {"attn_implementation": PACKED_ATTENTION}
        try:
            self.encoder: nn.Module = AutoModel.from_config(config, trust_remote_code=False, **attention)
        except (TypeError, ValueError, ArithmeticError, AttributeError, LookupError):
            raise UserError(_UNUSABLE) from None
        _drop_pooler(self.encoder)
        if gradient_checkpointing:
            # Reentrant checkpointing marks parameters as ready twice under DistributedDataParallel. Not all supported
            # releases of transformers have the newer name of this method.
            with warnings.catch_warnings(action="ignore", category=FutureWarning):
                self.encoder.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]

    def forward(self, tokens: Tensor, attention_mask: Tensor, positions: Tensor | None = None) -> Tensor:
        """Map token ids int64 [b, T] and mask [b, T] (1 = token, 0 = padding) to vectors [b, T, width].

        With `positions` from `packed_positions` (int64 [N]) only those tokens are computed, and the other vectors are
        zero. Models without a `first_position` compute all tokens.
        """
        if tokens.shape[1] > self.max_tokens:
            raise UserError(
                f"reports of {tokens.shape[1]} tokens exceed the text encoder's {self.max_tokens} positions: "
                "lower --data.max-tokens"
            )
        mask = self._mask(attention_mask)
        first = self._first_position
        if positions is not None and first is not None and len(positions) < tokens.numel():
            return packed_vectors(self.encoder, tokens, mask, positions, first)
        vectors: Tensor = self.encoder(input_ids=tokens, attention_mask=mask).last_hidden_state
        return vectors

    def get_input_embeddings(self) -> nn.Module:
        """The embedding layer, at which word scores are computed."""
        embeddings: nn.Module = self.encoder.get_input_embeddings()  # type: ignore[operator]
        return embeddings

    def _mask(self, attention_mask: Tensor) -> Tensor:
        """The mask of transformers, without its check for a mask of ones only, which waits for the device."""
        kind: Any = self.encoder.config._attn_implementation  # type: ignore[union-attr]
        if kind not in ("sdpa", PACKED_ATTENTION):
            return attention_mask
        return attention_mask.bool()[:, None, None].expand(-1, 1, attention_mask.shape[1], -1)

    def load(self, folder: Path) -> None:
        """Load FOLDER/model.safetensors; raises UserError unless every tensor is present and fits."""
        loaded, report = read_transformer(folder, "text encoder")
        wrong = [*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])]
        wrong = sorted(name for name in wrong if not name.startswith("pooler."))
        if wrong:
            raise UserError(
                f"the text encoder's weights do not fit its config.json: {len(wrong)} tensors are missing or of "
                f"another shape, the first is {wrong[0]}: use a folder with the weights and config.json of one model"
            )
        _drop_pooler(loaded)
        self.encoder.load_state_dict(loaded.state_dict())


def _read_config(folder: Path) -> Any:
    if not (folder / "config.json").is_file():
        raise UserError(f"no config.json in the text encoder's folder {folder}: expected a Hugging Face model")
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises many types of errors for a field of another type
        if too_many_open := out_of_files(error):
            raise too_many_open from None
        config = None
    if config is None or config.is_encoder_decoder or not hasattr(config, "max_position_embeddings"):
        raise UserError(_UNUSABLE)
    return config


def read_transformer(folder: Path, what: str) -> tuple[nn.Module, dict[str, Any]]:
    """The model of a folder, and transformers' report on missing and mismatched tensors; raises UserError.

    transformers maps old tensor names. `what` is "text encoder" or "image encoder".
    """
    try:
        with _quiet():
            loaded, report = AutoModel.from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except Exception as error:  # safetensors raises exceptions of its own for a damaged file
        raise UserError(
            f"the {what}'s model.safetensors cannot be read ({type(error).__name__}): download it again, "
            "or use --model.pretrained false"
        ) from error
    return loaded, report


def _drop_pooler(encoder: Any) -> None:
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None


@contextmanager
def _quiet() -> Iterator[None]:
    """Switch off transformers' loading report and progress bar, which every rank would print."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
