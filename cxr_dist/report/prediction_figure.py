"""The figure of `cxr-dist predict`: the image, its heat map, the probabilities, and the words of the report.

Everything is placed in inches, because the height depends on the number of classes and words.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cxr_dist.evaluate.arrays import Floats
from cxr_dist.evaluate.word_scores import WordScores
from cxr_dist.report.plots import BLUE, INK, MUTED, VERMILLION, styled, wrapped
from cxr_dist.report.words import LINE, SHARE, SIGNED, draw_words, lines_needed, measured

_WIDTH, _MARGIN, _GAP = 10.5, 0.3, 0.3
_IMAGE = 2.95  # side of the image
_TITLE = 0.32  # height of the titles above the axes
_TICKS = 0.3  # height of the tick labels below the bars
_FOOT = 0.34
_LINE = 0.19  # height of a line above the images
_HEAD = 0.55  # height of the title and the legend above the words
_CUT = 0.22  # height of the note on truncated words below the words
_COLUMN = (_WIDTH - 2 * _MARGIN - _GAP) / 2  # the report is drawn in two columns, with different scores
_POINTS = 72  # per inch
_MOST_CLASSES = 20  # matplotlib draws no picture of more than 65,536 pixels, and a page shows few rows
_MOST_LINES = 4  # of a list of classes above the images


@dataclass(frozen=True, kw_only=True)
class CaseView:
    """The content of the figure of one case."""

    image: NDArray[np.uint8] | None
    """[H, W], the input of the network, with the images of a study side by side; None if the model reads no image."""
    heat: Floats | None
    """[h, w], >= 0, a coarse map that is stretched over the image; None without an image."""
    probabilities: Floats
    """[C] in [0, 1], the headline."""
    kind: str
    """What they are, in words: calibrated or not."""
    interval: Floats | None
    """[2, C], lower and upper bound of each probability over the stochastic passes; None without passes."""
    classes: Sequence[str]
    explained: str
    """The class that the heat map and the scores of the words refer to."""
    predicted: Sequence[str]
    """The predicted class, or classes; empty if there is none."""
    rule: str
    """Which classes are predicted, in words."""
    thresholds: Mapping[str, float] | None
    """Class -> the probability from which it is predicted; None if the most probable class is."""
    prediction_set: str = ""
    """What the prediction set holds, in words; empty without one."""
    report: WordScores | None
    """None if the model reads no report or has no scores of words."""
    warnings: Sequence[str] = ()
    """Why the prediction may not be what the user expects; drawn above everything else."""


@styled
def explanation(case: CaseView) -> Figure:
    """Draw the image, its heat map and the probabilities side by side, and the report with both scores below.

    Of more than 20 classes the 20 most probable ones are drawn, in their order.
    """
    lines, num_classes = _lines_above(case), len(case.classes)
    case = _most_probable(case)
    ticks = _TICKS + (_LINE if case.thresholds is not None else 0.0)
    upper = max(_IMAGE if case.image is not None else 0.0, 0.27 * len(case.classes) + 0.25 + ticks)
    lower = _report_height(case.report)
    top = len(lines) * _LINE + 0.2 + _TITLE
    figure = Figure(figsize=(_WIDTH, top + upper + lower + _FOOT))
    for number, (line, style) in enumerate(lines):
        height = 1 - (0.14 + number * _LINE) / figure.get_figheight()
        figure.text(_MARGIN / _WIDTH, height, line, va="top", parse_math=False, **style)
    left = _MARGIN
    if case.image is not None:
        _image(_place(figure, left, top, _IMAGE, _IMAGE), case.image, "Image")
        left += _IMAGE + 0.15
    if case.image is not None and case.heat is not None:
        axes = _place(figure, left, top, _IMAGE, _IMAGE)
        _image(axes, case.image, wrapped(f"Grad-CAM heat map for {case.explained}", 44))
        _overlay(axes, case.heat, case.image.shape)
        left += _IMAGE + 0.15
    left += max(measured(line, 9) for name in case.classes for line in wrapped(name, 20).split("\n")) / _POINTS + 0.2
    right = _WIDTH - _MARGIN if case.image is not None else min(_WIDTH - _MARGIN, left + 5)
    _bars(_place(figure, left, top, right - left, upper - ticks), case, num_classes)
    if case.report is not None:
        _report(figure, case.report, case.explained, top + upper)
    note = "Research software, not for clinical use. Colours show what influenced the prediction, not findings."
    figure.text(_MARGIN / _WIDTH, 0.12 / figure.get_figheight(), note, fontsize=8, color=MUTED)
    return figure


def _lines_above(case: CaseView) -> list[tuple[str, dict[str, Any]]]:
    """(text, style) of each line above the images: the predicted classes, their rule, and the warnings."""
    shares = dict(zip(case.classes, case.probabilities.tolist(), strict=True))
    named = (f"{name} ({shares[name]:.0%})" for name in case.predicted)
    predicted = ", ".join(named) or f"none of the {len(case.classes)} classes"
    parts: list[tuple[str, int, dict[str, Any]]] = [
        (f"Predicted: {predicted}", 100, {"fontsize": 11, "fontweight": "bold"}),
        (f"By {case.kind}: {case.rule}.", 150, {"fontsize": 8, "color": MUTED}),
    ]
    if case.prediction_set:
        parts.append((f"{case.prediction_set}.", 120, {"fontsize": 9}))
    warnings = {"fontsize": 9, "fontweight": "bold", "color": VERMILLION}
    parts += [(f"Warning: {warning}.", 120, warnings) for warning in case.warnings]
    return [(line, style) for text, width, style in parts for line in _wrapped(text, width).split("\n")]


def _wrapped(text: str, width: int) -> str:
    return fill(text, width, max_lines=_MOST_LINES, placeholder=" …")


def _most_probable(case: CaseView) -> CaseView:
    if len(case.classes) <= _MOST_CLASSES:
        return case
    kept = np.sort(np.argsort(-case.probabilities, kind="stable")[:_MOST_CLASSES])
    interval = None if case.interval is None else case.interval[:, kept]
    classes = [case.classes[c] for c in kept]
    return replace(case, classes=classes, probabilities=case.probabilities[kept], interval=interval)


def _place(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Add axes at a position in inches from the upper left corner of the figure."""
    whole = figure.get_figheight()
    return figure.add_axes((left / _WIDTH, 1 - (top + height) / whole, width / _WIDTH, height / whole))


def _image(axes: Axes, image: NDArray[np.uint8], title: str) -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=255)
    axes.set_title(title)
    axes.set_axis_off()


def _overlay(axes: Axes, heat: Floats, shape: tuple[int, ...]) -> None:
    top = float(heat.max())
    share = heat / top if top > 0 else np.zeros_like(heat)
    extent = (-0.5, shape[1] - 0.5, shape[0] - 0.5, -0.5)
    style: dict[str, Any] = {"cmap": "inferno", "vmin": 0, "vmax": 1, "interpolation": "bilinear"}
    # Where the heat is low the map is transparent, so that the image stays visible.
    axes.imshow(share, alpha=0.65 * share, extent=extent, **style)
    if top <= 0:
        place: dict[str, Any] = {"transform": axes.transAxes, "ha": "center", "fontsize": 8}
        background = {"facecolor": INK, "linewidth": 0, "pad": 3}
        axes.text(0.5, 0.04, "no region supports this class", color="white", bbox=background, **place)


def _bars(axes: Axes, case: CaseView, num_classes: int) -> None:
    rows = np.arange(len(case.classes))
    axes.barh(rows, case.probabilities, color=BLUE, alpha=0.8, height=0.62)
    ends = case.probabilities
    if case.interval is not None:
        axes.hlines(rows, *case.interval, color=INK, linewidth=1.4)
        axes.plot(case.interval, np.stack([rows, rows]), "|", color=INK, markersize=7)
        ends = np.maximum(ends, case.interval[1])
    if case.thresholds is not None:
        marks = np.array([case.thresholds[name] for name in case.classes])
        axes.vlines(marks, rows - 0.42, rows + 0.42, color=VERMILLION, linewidth=1.4, linestyle=(0, (2, 1.5)))
        axes.set_xlabel("dashed: the threshold of the class", fontsize=8, color=MUTED, loc="left")
        ends = np.where((ends <= marks) & (marks < ends + 0.17), marks, ends)  # so that no mark crosses a number
    for row, (value, end) in enumerate(zip(case.probabilities, ends, strict=True)):
        place: dict[str, Any] = {"xytext": (5, 0), "textcoords": "offset points", "va": "center"}
        axes.annotate(f"{value:.0%}", (float(end), row), fontsize=8, **place)
    axes.set_yticks(rows, [wrapped(name, 20) for name in case.classes], parse_math=False)
    for label, name in zip(axes.get_yticklabels(), case.classes, strict=True):
        label.set_fontweight("bold" if name in case.predicted else "normal")
    axes.set(xlim=(0, 1.16), ylim=(len(rows) - 0.4, -0.6), xticks=np.linspace(0, 1, 5))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    kind = case.kind[:1].upper() + case.kind[1:]
    if len(rows) < num_classes:
        kind += f", {len(rows)} most probable of {num_classes} classes"
    axes.set_title(kind if case.interval is None else f"{kind}\nwith 95% interval of the passes")
    axes.grid(True, axis="x")


def _report_height(report: WordScores | None) -> float:
    if report is None:
        return 0.0
    lines = lines_needed(report.words, _COLUMN * _POINTS)
    return _GAP + _HEAD + max(1, lines) * LINE / _POINTS + _CUT


def _report(figure: Figure, report: WordScores, explained: str, top: float) -> None:
    top += _GAP + _HEAD
    height = _report_height(report) - _GAP - _HEAD - _CUT
    columns = [_place(figure, x, top, _COLUMN, height) for x in (_MARGIN, _WIDTH - _MARGIN - _COLUMN)]
    for axes, title in zip(columns, ("Report by attention", "Report by integrated gradients"), strict=True):
        axes.set(xlim=(0, _COLUMN * _POINTS), ylim=(height * _POINTS, 0))
        axes.set_axis_off()
        axes.text(0, -26, title)
        if not report.words:
            _message(axes, "no report was given")
    if report.words:
        _by_attention(columns[0], report)
        _by_gradient(columns[1], report, explained)
    if report.cut:
        words = "1 further word was" if report.cut == 1 else f"{report.cut} further words were"
        note = f"{words} truncated and not read by the model"
        columns[0].text(0, height * _POINTS + 12, note, fontsize=8, color=MUTED)


def _by_attention(axes: Axes, report: WordScores) -> None:
    if report.attention is None:
        _message(axes, "the fusion of this model does not use the report")
        return
    most = float(report.attention.max())
    draw_words(axes, report.words, SHARE(report.attention / max(most, 1e-12)))
    _legend(axes, SHARE, "0", f"{most:.1%} of the attention")


def _by_gradient(axes: Axes, report: WordScores, explained: str) -> None:
    scores = report.gradient_times_input
    most = max(float(np.abs(scores).max()), 1e-12)
    draw_words(axes, report.words, SIGNED(0.5 + scores / most / 2))
    _legend(axes, SIGNED, "against", f"for {explained}")


def _legend(axes: Axes, colours: Colormap, low: str, high: str) -> None:
    """Draw a colour scale with the meaning of its ends below the title."""
    style: dict[str, Any] = {"fontsize": 8, "color": MUTED, "va": "center", "parse_math": False}
    middle, start, ramp = -11.0, measured(low, 8) + 5, 46.0
    axes.text(0, middle, low, **style)
    frame = axes.inset_axes((start, middle - 4, ramp, 8), transform=axes.transData)
    frame.imshow(np.linspace(0, 1, 64)[None], cmap=colours, aspect="auto")
    frame.set(xticks=[], yticks=[])
    frame.spines[:].set(visible=True, linewidth=0.5)
    axes.text(start + ramp + 5, middle, high, **style)


def _message(axes: Axes, message: str) -> None:
    axes.text(0, 12, message, color=MUTED)
