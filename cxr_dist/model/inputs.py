"""What the network takes of a batch: `Classifier.encode` takes it whole, `forward` unpacked.

A tuple of tensors, because the engines of parallel training, torch.compile and ONNX want tensors as arguments:
`backend.forward(*inputs)`.
"""

from typing import NamedTuple, Self

from torch import Tensor

from cxr_dist.data.batch import Batch


class Inputs(NamedTuple):
    """Tensors of b samples on the model's device; what its mode does not read may be None, and is ignored else."""

    images: Tensor | None = None
    """float [n, 1, H, W], normalised; each film is a sample, n = b, unless `view_rows` says which films are whose."""
    tokens: Tensor | None = None
    """int64 [b, T], token ids."""
    attention_mask: Tensor | None = None
    """int64 [b, T], 1 for a token, 0 for padding."""
    token_positions: Tensor | None = None
    """int64 [N], the places in b · T that the text encoder computes (`packed_positions`); None: all."""
    view_rows: Tensor | None = None
    """int64 [b, V], the rows of `images` that are a sample's films (`Batch.view_rows`)."""

    @classmethod
    def of(cls, batch: Batch, images: Tensor | None) -> Self:
        """A batch that is on its device, and its films as the image encoder takes them."""
        return cls(images, batch.tokens, batch.attention_mask, batch.token_positions, batch.view_rows)
