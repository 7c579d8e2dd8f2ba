"""The table of image encoders in the documentation is that of the code."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from cxr_dist.config.model import ModelConfig
from cxr_dist.model.image_encoder import image_encoder_kind

pytest.importorskip("timm", reason="needs timm: pip install 'cxr_dist[encoders]'")

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "encoders.md"
SIDE = 224
ROWS = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `") and "×" in line]


def row_of(name: str) -> str:
    """An encoder's row of the table, from a network without values."""
    kind = image_encoder_kind(name, image_size=SIDE)
    config = ModelConfig(mode="image", image_encoder=name, pretrained=False)
    with torch.device("meta"), torch.no_grad():
        encoder = kind.build(config).eval()
        tokens, pooled = encoder(torch.empty(1, 1, SIDE, SIDE))
    side = round(tokens.shape[1] ** 0.5)
    assert tokens.shape == (1, side * side, encoder.width)
    assert pooled.shape == (1, encoder.width)
    channels = getattr(encoder, "channels", 1)
    norm = "BatchNorm" if any(isinstance(layer, nn.BatchNorm2d) for layer in encoder.modules()) else "LayerNorm"
    cells = (
        f"`{name}`",
        "grey" if channels == 1 else "grey, repeated",
        f"{kind.levels.mean:.3g}, {kind.levels.deviation:.3g}",
        f"{side} × {side}",
        str(encoder.width),
        getattr(encoder, "pooling", "mean"),
        norm,
        "yes" if kind.recomputes else "no",
    )
    return f"| {' | '.join(cells)} |"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: re.findall(r"`(.+?)`", row)[0])
def test_a_row_says_what_the_encoder_is(row: str) -> None:
    [name] = re.findall(r"^\| `(.+?)` \|", row)
    assert row == row_of(name)


def test_the_table_has_an_encoder_of_each_library() -> None:
    assert len(ROWS) >= 10
    assert any("`timm:" in row for row in ROWS)
    assert any("`torchxrayvision:" in row for row in ROWS)
