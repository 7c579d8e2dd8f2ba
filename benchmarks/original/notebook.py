"""The original notebook's networks and training loop, restated: batches of films and reports in, updated weights out.

Batches of 8 in float32, films of three channels, reports padded to 128 tokens, the loss and the number of right
answers read in every step, gradients of four batches added up. The encoders are those of this package's runs.
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
    """What the notebook's DataLoader gives."""

    films: Tensor
    """float32 [8, channels, 224, 224], normalised."""
    tokens: Tensor
    """int64 [8, 128]."""
    mask: Tensor
    """int64 [8, 128]."""
    labels: Tensor
    """int64 [8]."""


class NotebookNetwork(nn.Module):
    """DenseNet-121 and, for `enhanced`, BERT's pooled answer, joined by attention of one query to one key."""

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

    def forward(self, films: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Logits [b, 5]."""
        summary = functional.relu(self.image(films)).mean(dim=(2, 3))
        if self.text is not None:
            film = self.from_image(summary)[:, None]
            words = self.from_text(self.text(tokens, attention_mask=mask).pooler_output)[:, None]
            summary = torch.cat([film, self.attention(words, film, film)[0]], dim=2)[:, 0]
        logits: Tensor = self.head(summary)
        return logits


def focal(logits: Tensor, labels: Tensor) -> Tensor:
    """The notebook's focal loss, γ = 2."""
    loss = functional.cross_entropy(logits, labels, reduction="none")
    return ((1 - torch.exp(-loss)) ** 2 * loss).mean()


class NotebookLoop:
    """Callable: the batches of one update in; as the notebook's loop, it keeps the running loss and accuracy."""

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
        """Forward and backward of each batch, then one update."""
        for batch in batches:
            films, tokens, mask, labels = (each.to(self.device) for each in batch)
            logits = self.model(films, tokens, mask)
            loss = self.criterion(logits, labels) / ACCUMULATED
            loss.backward()  # type: ignore[no-untyped-call]
            self.running += loss.item()
            self.correct += int((logits.argmax(1) == labels).sum().item())
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
