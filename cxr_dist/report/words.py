"""Draw the words of a report into axes, each on a background colour that shows its score.

Widths are measured with the font's metrics before drawing, so that lines wrap and words never overlap.
"""

from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.patches import FancyBboxPatch
from matplotlib.textpath import text_to_path

from cxr_dist.evaluate.arrays import Floats
from cxr_dist.report.plots import BLUE, INK, ORANGE, SURFACE, VERMILLION

LINE = 17.0
"""Height of a line in points."""
_SIZE = 8.5  # of the font, in points
_GAP = 5.0  # between words, in points; must exceed twice _MARGIN
_MARGIN = 1.6  # of the background around a word, in points
_STRENGTH = 0.72  # of the darkest background; INK stays legible on it


def _tint(colour: str) -> tuple[float, ...]:
    pairs = zip(to_rgb(colour), to_rgb(SURFACE), strict=True)
    return tuple(_STRENGTH * ours + (1 - _STRENGTH) * surface for ours, surface in pairs)


SHARE = LinearSegmentedColormap.from_list("share", [to_rgb(SURFACE), _tint(ORANGE)])
"""Colours of scores from 0 to 1."""
SIGNED = LinearSegmentedColormap.from_list("signed", [_tint(BLUE), to_rgb(SURFACE), _tint(VERMILLION)])
"""Colours of scores from 0 (against the class) over 0.5 (neutral) to 1 (for the class)."""


@lru_cache(maxsize=4096)
def measured(text: str, size: float = _SIZE) -> float:
    """Return the width of a text in points."""
    return float(text_to_path.get_text_width_height_descent(text, FontProperties(size=size), False)[0])


def drawable(word: str, limit: float) -> str:
    """Replace characters that the font lacks by □, because matplotlib would warn of them, and cut to `limit` points."""
    font = get_font(findfont(FontProperties()))  # matplotlib caches both calls
    word = "".join(c if font.get_char_index(ord(c)) else "□" for c in word)
    if measured(word) <= limit:
        return word
    kept = bisect_left(range(len(word)), True, key=lambda n: measured(word[: n + 1] + "…") > limit)
    return word[:kept] + "…"


def flow(widths: Sequence[float], limit: float, gap: float = _GAP) -> list[tuple[float, int]]:
    """Return (left edge, line) of each word, wrapping lines at `limit`; no width may exceed `limit`."""
    places, x, line = [], 0.0, 0
    for width in widths:
        if x > 0 and x + width > limit:
            x, line = 0.0, line + 1
        places.append((x, line))
        x += width + gap
    return places


def lines_needed(words: Sequence[str], limit: float) -> int:
    """Return the number of lines that `draw_words` needs in axes that are `limit` points wide."""
    return flow([measured(drawable(word, limit)) for word in words], limit)[-1][1] + 1 if words else 0


def draw_words(axes: Axes, words: Sequence[str], colours: Floats) -> None:
    """Draw words on backgrounds of colours [words, 4] (RGBA); the axes' data units are points, with y downwards."""
    limit = float(np.ptp(axes.get_xlim()))
    shown = [drawable(word, limit) for word in words]
    widths = [measured(word) for word in shown]
    for word, width, colour, (x, line) in zip(shown, widths, colours, flow(widths, limit), strict=True):
        top = line * LINE
        background = FancyBboxPatch(
            (x - _MARGIN, top + 2),
            width + 2 * _MARGIN,
            LINE - 4,
            boxstyle="round,pad=0,rounding_size=1.5",
            facecolor=colour,
            linewidth=0,
            clip_on=False,
        )
        axes.add_patch(background)
        # A dollar sign in a report does not start a formula.
        style: dict[str, Any] = {"fontsize": _SIZE, "color": INK, "va": "baseline", "parse_math": False}
        axes.text(x, top + 12, word, clip_on=False, **style)
