"""Convert a matplotlib figure to an inline SVG with the page's fonts and its light or dark colours.

Text stays text. The same figure gives the same bytes. The page must define the CSS variables --ink, --muted, --grid,
--blue and --font.
"""

import io
import re
from html import escape

import matplotlib as mpl
from matplotlib.figure import Figure

from cxr_dist.errors import printable
from cxr_dist.report.plots import BLUE, GRID_COLOUR, INK, MUTED

_THEME = {INK: "var(--ink)", MUTED: "var(--muted)", GRID_COLOUR: "var(--grid)", BLUE: "var(--blue)"}


def to_svg(figure: Figure, name: str, description: str) -> str:
    """Return a figure as `<svg>`. `name` must be unique on the page; screen readers read `description`."""
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), io.StringIO() as file:
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
        svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # ids such as axes_1 repeat in every figure of the page
    svg = re.sub(r"<[^>]*>", _shorter, svg)
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--font)", svg)
    for colour, variable in _THEME.items():
        svg = svg.replace(colour, variable)
    head = f'<svg role="img" aria-label="{escape(printable(description), quote=True)}"'
    # Without width and height, the page decides the size.
    return re.sub(r'<svg[^>]*?(viewBox="[^"]*")[^>]*>', lambda match: f"{head} {match[1]}>", svg, count=1).strip()


def standalone(svg: str) -> str:
    """Return a figure of `to_svg` as a file of its own, in light colours on white, with a size in points."""
    for colour, variable in _THEME.items():
        svg = svg.replace(variable, colour)
    svg = svg.replace("var(--font)", "sans-serif")
    names = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert found is not None
    size = f'width="{found[1]}pt" height="{found[2]}pt" style="background: #fff"'
    return svg.replace("<svg", f"<svg {names} {size}", 1)


def _shorter(tag: re.Match[str]) -> str:
    """Round the coordinates of a tag to a hundredth of a point, which is invisible."""
    return re.sub(r"-?\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), tag[0])
