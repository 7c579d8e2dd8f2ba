"""Draw the pictures of the explanations as SVG: docs/images/lanes.svg, sampling.svg and models.svg.

python docs/drawings.py
"""

from html import escape
from pathlib import Path

IMAGES = Path(__file__).parent / "images"
COLOURS = ("#88ccee", "#ddcc77", "#cc6677", "#999933", "#44aa99", "#aa4499", "#6699cc", "#ee8866")
GREY, INK = "#e4e7ea", "#1f2933"


class Drawing:
    """An SVG of a width and a height in pixels."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.parts: list[str] = []

    def box(self, x: float, y: float, w: float, h: float, text: str = "", fill: str = GREY) -> None:
        """A rounded box with centred text, whose lines are separated by a line break."""
        self.parts.append(f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="4" fill="{fill}" stroke="{INK}"/>')
        lines = text.split("\n") if text else []
        for number, line in enumerate(lines):
            self.text(x + w / 2, y + h / 2 + 4.5 + 16 * (number - (len(lines) - 1) / 2), line, anchor="middle")

    def text(self, x: float, y: float, text: str, anchor: str = "start", bold: bool = False) -> None:
        """A line of text; `anchor` is start, middle or end."""
        weight = ' font-weight="bold"' if bold else ""
        self.parts.append(f'<text x="{x}" y="{y}" text-anchor="{anchor}"{weight}>{escape(text)}</text>')

    def line(self, x1: float, y1: float, x2: float, y2: float, arrow: bool = False) -> None:
        """A line, or an arrow."""
        end = ' marker-end="url(#arrow)"' if arrow else ""
        self.parts.append(f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{INK}" stroke-width="1.5"{end}/>')

    def save(self, name: str) -> None:
        """Write docs/images/NAME.svg."""
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" width="{self.width}" '
            f'font-family="sans-serif" font-size="14" fill="{INK}">\n<defs><marker id="arrow" viewBox="0 0 8 8" '
            'refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            f'<path d="M0 0 L8 4 L0 8 z" fill="{INK}"/></marker></defs>\n'
        )
        (IMAGES / f"{name}.svg").write_text(head + "\n".join(self.parts) + "\n</svg>\n", encoding="utf-8")


def lanes() -> None:
    """One step at 1, 2 and 4 ranks: the same eight micro-batches."""
    drawing = Drawing(760, 372)
    drawing.text(10, 24, "One step: global batch 64 = 8 lanes of micro-batch 8", bold=True)
    for lane in range(8):
        drawing.box(130 + 74 * lane, 40, 66, 34, f"lane {lane}", COLOURS[lane])
    y = 112
    for ranks in (1, 2, 4):
        drawing.text(10, y + 18, f"{ranks} rank{'s' * (ranks > 1)}", bold=True)
        height = {1: 44, 2: 38, 4: 30}[ranks]
        for rank in range(ranks):
            width = 592 / ranks
            x = 130 + width * rank
            drawing.text(x, y - 2, f"rank {rank}")
            for place, lane in enumerate(range(rank, 8, ranks)):
                drawing.box(x + 37 * place, y + 6, 32, height, str(lane), COLOURS[lane])
        y += height + 38
    drawing.text(10, y + 4, "A lane has the same samples, augmentation, mixup and dropout masks whoever computes it.")
    drawing.text(10, y + 26, "Only the order in which the gradients are summed differs.")
    drawing.save("lanes")


def sampling() -> None:
    """Systematic resampling: weights end to end, evenly spaced draws, lanes."""
    drawing = Drawing(760, 312)
    drawing.text(10, 24, "Weights of all samples, laid end to end in a new order of shards every epoch", bold=True)
    x, left, unit = 20.0, 20.0, 11.3
    shards = (("shard 7", (4, 4, 12, 4)), ("shard 2", (4, 4, 4, 12)), ("shard 5", (4, 4, 4)))
    for number, (name, weights) in enumerate(shards):
        drawing.text(x, 50, name)
        for weight in weights:
            drawing.box(x, 58, weight * unit, 34, "rare class" if weight > 4 else "", COLOURS[number])
            x += weight * unit
    total = x - left
    draws, offset = 12, 0.35
    for number in range(draws):
        place = left + total * (number + offset) / draws
        drawing.line(place, 130, place, 96, arrow=True)
    drawing.text(left, 150, "N evenly spaced draws with one random offset: every sample ⌊expected⌋ or ⌈expected⌉ times")
    for lane in range(4):
        drawing.box(left + total * lane / 4, 172, total / 4 - 4, 34, f"lane {lane}", COLOURS[lane + 3])
    drawing.text(left, 230, "Cut into lanes of equal length: a lane reads only its own stretch of the shards")
    for window in range(8):
        drawing.box(left + total * window / 8, 246, total / 8 - 4, 26, "shuffled", GREY)
    drawing.text(left, 294, "Shuffled inside windows of a few shards")
    drawing.save("sampling")


def models() -> None:
    """Both networks: image alone, and image with report."""
    drawing = Drawing(760, 330)
    drawing.text(10, 24, "baseline", bold=True)
    drawing.box(20, 38, 90, 44, "image")
    drawing.box(150, 38, 150, 44, "DenseNet-121", COLOURS[0])
    drawing.box(340, 38, 120, 44, "pooled\n1024", GREY)
    drawing.box(500, 38, 240, 44, "head 512 → 256 → classes\ndropout 0.5, 0.3", COLOURS[1])
    for x in (110, 300, 460):
        drawing.line(x, 60, x + 38, 60, arrow=True)
    drawing.text(10, 124, "enhanced", bold=True)
    drawing.box(20, 138, 90, 44, "image")
    drawing.box(150, 138, 150, 44, "DenseNet-121", COLOURS[0])
    drawing.box(340, 138, 120, 44, "7 × 7\nimage tokens", GREY)
    drawing.box(20, 248, 90, 44, "report")
    drawing.box(150, 248, 150, 44, "Bio_ClinicalBERT", COLOURS[4])
    drawing.box(340, 248, 120, 44, "report\ntokens", GREY)
    drawing.box(500, 193, 110, 54, "attention:\nreport → image", COLOURS[7])
    drawing.box(642, 193, 98, 54, "head\nas above", COLOURS[1])
    for y in (160, 270):
        drawing.line(110, y, 148, y, arrow=True)
        drawing.line(300, y, 338, y, arrow=True)
    drawing.line(460, 160, 516, 191, arrow=True)
    drawing.line(460, 270, 516, 249, arrow=True)
    drawing.line(610, 220, 640, 220, arrow=True)
    drawing.line(400, 138, 400, 116)
    drawing.line(400, 116, 690, 116)
    drawing.line(690, 116, 690, 191, arrow=True)
    drawing.text(470, 110, "pooled image")
    drawing.save("models")


if __name__ == "__main__":
    lanes()
    sampling()
    models()
