"""The network's inputs: `Classifier.encode` takes them as one tuple and `forward` as separate arguments.

They are a tuple of tensors, because the engines of parallel training, torch.compile and ONNX need tensors as
arguments: `backend.forward(*inputs)`.
"""

from typing import NamedTuple, Self

from torch import Tensor

from cxr_dist.data.batch import Batch


class Inputs(NamedTuple):
    """Tensors of b samples on the model's device. Fields that the model's mode does not read are ignored."""

    images: Tensor | None = None
    """float [n, 1, H, W], normalised. Each image is a sample (n = b), unless `view_rows` is given."""
    tokens: Tensor | None = None
    """int64 [b, T], token ids."""
    attention_mask: Tensor | None = None
    """int64 [b, T], 1 for a token, 0 for padding."""
    token_positions: Tensor | None = None
    """int64 [N], positions in b · T that the text encoder computes (`packed_positions`). None means all."""
    view_rows: Tensor | None = None
    """int64 [b, V], the rows of `images` that belong to each sample (`Batch.view_rows`)."""

    @classmethod
    def of(cls, batch: Batch, images: Tensor | None) -> Self:
        """The inputs for a batch on its device, with its images normalised for the image encoder."""
        return cls(images, batch.tokens, batch.attention_mask, batch.token_positions, batch.view_rows)
