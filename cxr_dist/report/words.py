"""A report's words on coloured ground: words and a number for each in, lines of text in given axes out.

Widths are measured with the font's own metrics before anything is drawn, so that words wrap and never overlap.
"""

from bisect import bisect_left
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.patches import FancyBboxPatch
from matplotlib.textpath import text_to_path
from numpy.typing import NDArray

from cxr_dist.report.plots import BLUE, INK, ORANGE, SURFACE, VERMILLION

LINE = 17.0
"""Height of a line, points."""
_SIZE = 8.5  # of the letters, points
_GAP = 5.0  # between words, points: more than their grounds' margins
_MARGIN = 1.6
_STRENGTH = 0.72  # the strongest ground is not so dark that INK could not be read on it


def _towards(colour: str) -> Any:
    return _STRENGTH * np.array(to_rgb(colour)) + (1 - _STRENGTH) * np.array(to_rgb(SURFACE))


SHARE = LinearSegmentedColormap.from_list("share", [to_rgb(SURFACE), _towards(ORANGE)])
"""0 to 1: how much."""
SIGNED = LinearSegmentedColormap.from_list("signed", [_towards(BLUE), to_rgb(SURFACE), _towards(VERMILLION)])
"""0 to 1, with 0.5 for neither: against and for."""


@cache
def _font() -> Any:
    return get_font(findfont(FontProperties()))


@lru_cache(maxsize=4096)
def measured(text: str, size: float = _SIZE) -> float:
    """Width of a text in points."""
    return float(text_to_path.get_text_width_height_descent(text, FontProperties(size=size), False)[0])


def drawable(word: str, limit: float) -> str:
    """A word as it is drawn: □ for what the font lacks, which would be warned of, and cut to `limit` points."""
    word = "".join(c if _font().get_char_index(ord(c)) else "□" for c in word)
    if measured(word) <= limit:
        return word
    kept = bisect_left(range(len(word)), True, key=lambda n: measured(word[: n + 1] + "…") > limit)
    return word[:kept] + "…"


def flow(widths: Sequence[float], limit: float, gap: float = _GAP) -> list[tuple[float, int]]:
    """(left edge, line) of each word, set one after the other in lines of `limit`; no width exceeds it."""
    places, x, line = [], 0.0, 0
    for width in widths:
        if x > 0 and x + width > limit:
            x, line = 0.0, line + 1
        places.append((x, line))
        x += width + gap
    return places


def lines_needed(words: Sequence[str], limit: float) -> int:
    """How many lines `draw_words` takes in axes of `limit` points' width."""
    return flow([measured(drawable(word, limit)) for word in words], limit)[-1][1] + 1 if words else 0


def draw_words(axes: Axes, words: Sequence[str], colours: NDArray[np.float64]) -> None:
    """Fill axes, whose data units are points with y downwards, with words on grounds of colours [words, 4]."""
    limit = float(np.ptp(axes.get_xlim()))
    shown = [drawable(word, limit) for word in words]
    widths = [measured(word) for word in shown]
    for word, width, colour, (x, line) in zip(shown, widths, colours, flow(widths, limit), strict=True):
        top = line * LINE
        ground = FancyBboxPatch(
            (x - _MARGIN, top + 2),
            width + 2 * _MARGIN,
            LINE - 4,
            boxstyle="round,pad=0,rounding_size=1.5",
            facecolor=colour,
            linewidth=0,
            clip_on=False,
        )
        axes.add_patch(ground)
        # A report may hold dollar signs, which are not mathematics here.
        axes.text(
            x, top + 12, word, fontsize=_SIZE, color=INK, va="baseline", clip_on=False, parse_math=False
        )
