"""A matplotlib figure in, an inline SVG out: real text, the page's fonts and its light or dark colours.

The same figure gives the same bytes. Needs the CSS variables --ink, --muted, --grid, --blue and --font.
"""

import io
import re
from html import escape

import matplotlib as mpl
from matplotlib.figure import Figure

from cxr_dist.report.plots import BLUE, GRID, INK, MUTED

_THEME = {INK: "var(--ink)", MUTED: "var(--muted)", GRID: "var(--grid)", BLUE: "var(--blue)"}


def to_svg(figure: Figure, name: str, description: str) -> str:
    """The `<svg>` element of a figure. `name` is unique on the page; `description` is read to the blind."""
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), io.StringIO() as file:
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
        svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # figure_1, axes_1, ...: the same in every figure of the page
    svg = re.sub(r"<[^>]*>", _shorter, svg)
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--font)", svg)
    for colour, variable in _THEME.items():
        svg = svg.replace(colour, variable)
    head = f'<svg role="img" aria-label="{escape(description, quote=True)}"'
    # A view box alone lets the page decide the size.
    return re.sub(
        r"<svg[^>]*?(viewBox=\"[^\"]*\")[^>]*>", lambda match: f"{head} {match[1]}>", svg, count=1
    ).strip()


def _shorter(tag: re.Match[str]) -> str:
    """A tag whose coordinates are cut to a hundredth of a point, which no eye can see."""
    return re.sub(r"-?\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), tag[0])
