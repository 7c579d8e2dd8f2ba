"""The `pooled` model equals a plain implementation of the original notebook's layers with the same weights."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import densenet121
from transformers import AutoConfig, BertModel

from cxr_dist.config.model import ModelConfig
from cxr_dist.model.classifier import Classifier, build_classifier
from cxr_dist.model.image_encoder import IMAGENET, grey_weights


class Original(nn.Module):
    """Pooled DenseNet-121 and BERT's [CLS], attention with one text query and one image key, concatenation and head."""

    def __init__(self, bert_folder: Path, num_classes: int) -> None:
        super().__init__()
        self.densenet = densenet121(weights=None)
        self.bert = BertModel(AutoConfig.from_pretrained(bert_folder))
        self.image_projection = nn.Linear(1024, 512)
        self.text_projection = nn.Linear(self.bert.config.hidden_size, 512)
        self.attention = nn.MultiheadAttention(512, 8, batch_first=True)
        self.head = nn.Sequential(
            nn.Linear(1024, 512),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(512, 256),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(256, num_classes),
        )

    def forward(self, rgb: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        features = nn.functional.relu(self.densenet.features(rgb))
        pooled = nn.functional.adaptive_avg_pool2d(features, 1).flatten(1)
        report = self.bert(tokens, attention_mask=mask).last_hidden_state[:, 0]
        image, text = self.image_projection(pooled).unsqueeze(1), self.text_projection(report).unsqueeze(1)
        attended, _ = self.attention(text, image, image)
        return self.head(torch.cat([image.squeeze(1), attended.squeeze(1)], dim=1))


def copy_weights(ours: Classifier, original: Original) -> None:
    """Copy the original's weights to our model, whose tensors have other names."""
    report = {k: v for k, v in original.bert.state_dict().items() if not k.startswith("pooler.")}
    head = dict(zip(("first", "second", "output"), original.head[::3], strict=True))
    parts: list[tuple[nn.Module, dict[str, Tensor]]] = [
        (ours.image, grey_weights(original.densenet.state_dict())),
        (ours.text.encoder, report),
        (ours.summary.image_projection, original.image_projection.state_dict()),
        (ours.summary.text_projection, original.text_projection.state_dict()),
        (ours.summary.attention, original.attention.state_dict()),
        *((getattr(ours.head, name), layer.state_dict()) for name, layer in head.items()),
    ]
    for module, weights in parts:
        module.load_state_dict(weights, strict=True)


def test_pooled_model_equals_the_original(bert_folder: Path) -> None:
    torch.manual_seed(0)
    original = Original(bert_folder, num_classes=5).eval()
    config = ModelConfig(mode="fused", fusion="pooled", pretrained=False)
    ours = build_classifier(config, 5, bert_folder).eval()
    copy_weights(ours, original)
    images = torch.randint(0, 256, (2, 1, 96, 96), dtype=torch.uint8)
    tokens, mask = torch.randint(5, 60, (2, 12)), torch.ones(2, 12, dtype=torch.int64)
    rgb = (images.repeat(1, 3, 1, 1).float() / 255 - IMAGENET.mean) / IMAGENET.deviation
    with torch.no_grad():
        expected = original(rgb, tokens, mask)
        logits = ours(IMAGENET.normalise(images), tokens, mask)
    assert expected.std() > 1e-3, "the output must not be constant"
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    assert sum(p.numel() for p in ours.head.parameters()) == sum(p.numel() for p in original.head.parameters())
