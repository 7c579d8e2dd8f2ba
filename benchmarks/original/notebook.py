"""The networks and the training loop of the original notebook, written again with the encoders of this package.

Batches of 8 in float32, images of three channels, reports padded to 128 tokens, and gradients summed over four batches.
The loop reads the loss and the number of correct predictions back in every step.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import densenet121
from transformers import BertConfig, BertModel

from benchmarks.full_size import BERT_BASE, CLASSES

BATCH, ACCUMULATED = 8, 4


class NotebookBatch(NamedTuple):
    """A batch of the notebook's DataLoader."""

    images: Tensor
    """float32 [8, channels, 224, 224], normalised."""
    tokens: Tensor
    """int64 [8, 128]."""
    mask: Tensor
    """int64 [8, 128]."""
    labels: Tensor
    """int64 [8]."""


class NotebookNetwork(nn.Module):
    """DenseNet-121 and, for `enhanced`, BERT's pooled output, joined by attention with one query and one key."""

    def __init__(self, *, reads_text: bool, channels: int) -> None:
        super().__init__()
        self.image = densenet121().features
        if channels != 3:
            self.image.conv0 = nn.Conv2d(channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
        self.text = BertModel(BertConfig(**BERT_BASE)) if reads_text else None
        if reads_text:
            self.from_image, self.from_text = nn.Linear(1024, 512), nn.Linear(768, 512)
            self.attention = nn.MultiheadAttention(512, 8, dropout=0.1, batch_first=True)
        hidden = [nn.Linear(1024, 512), nn.ReLU(), nn.Dropout(0.5), nn.Linear(512, 256), nn.ReLU()]
        self.head = nn.Sequential(*hidden, nn.Dropout(0.3), nn.Linear(256, CLASSES))

    def forward(self, images: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Logits [b, 5]."""
        summary = functional.relu(self.image(images)).mean(dim=(2, 3))
        if self.text is not None:
            image = self.from_image(summary)[:, None]
            words = self.from_text(self.text(tokens, attention_mask=mask).pooler_output)[:, None]
            summary = torch.cat([image, self.attention(words, image, image)[0]], dim=2)[:, 0]
        logits: Tensor = self.head(summary)
        return logits


def focal(logits: Tensor, labels: Tensor) -> Tensor:
    """The notebook's focal loss with γ = 2."""
    loss = functional.cross_entropy(logits, labels, reduction="none")
    return ((1 - torch.exp(-loss)) ** 2 * loss).mean()


class NotebookLoop:
    """The notebook's training loop: a call trains on the batches of one update and tracks loss and accuracy."""

    def __init__(self, run: str, device: torch.device, *, channels: int = 3) -> None:
        torch.manual_seed(0)
        enhanced = run == "enhanced"
        self.device = device
        self.model = NotebookNetwork(reads_text=enhanced, channels=channels).train().to(device)
        kind = torch.optim.AdamW if enhanced else torch.optim.Adam
        self.optimizer = kind(self.model.parameters(), lr=1e-4)
        self.criterion: Callable[[Tensor, Tensor], Tensor] = focal if enhanced else functional.cross_entropy
        self.running, self.correct = 0.0, 0

    def __call__(self, batches: Iterable[NotebookBatch]) -> None:
        """Run forward and backward passes of all batches, then one update."""
        for batch in batches:
            images, tokens, mask, labels = (each.to(self.device) for each in batch)
            logits = self.model(images, tokens, mask)
            loss = self.criterion(logits, labels) / ACCUMULATED
            loss.backward()  # type: ignore[no-untyped-call]
            self.running += loss.item()
            self.correct += int((logits.argmax(1) == labels).sum().item())
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
