"""Arrays in, matplotlib figures out: ROC, confusion matrix, intervals, uncertainty, training curves.

Figures are made without pyplot, so that nothing global is touched. The colours are those of Okabe and Ito
(2008), which colour-blind readers can tell apart; ink, grid and surface are named once, so that the page can
turn them into its light and dark theme.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from textwrap import fill
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from cxr_dist.evaluate.arrays import Floats

Drawing = ParamSpec("Drawing")

INK, MUTED, GRID, SURFACE = "#1b222b", "#59646f", "#d3d9df", "#fffffe"
BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
)
CYCLE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
MODE_COLOURS = {"image": BLUE, "text": ORANGE, "fused": GREEN}
DASHES = ("-", "--", ":")

_STYLE: dict[str, Any] = {
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "figure.facecolor": SURFACE,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.title_fontsize": 8,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.6,
}


def styled(draw: Callable[Drawing, Figure]) -> Callable[Drawing, Figure]:
    """Draw in the common style, and leave matplotlib's own settings as they were."""

    @wraps(draw)
    def draw_in_style(*args: Drawing.args, **options: Drawing.kwargs) -> Figure:
        with mpl.rc_context(_STYLE):
            return draw(*args, **options)

    return draw_in_style


def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1, **options: Any
) -> tuple[Figure, Any]:
    """A figure of width × height inches, and its axes (an array where there are several)."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


@styled
def roc(curves: Mapping[str, tuple[Floats, Floats]], aucs: Mapping[str, float | None]) -> Figure:
    """ROC curves by name: (false-positive rate, true-positive rate), each [k] in [0, 1]; the legend has the AUC."""
    crowded = len(curves) > 6  # the legend would hide the curves: it goes below
    figure, axes = new_figure(4.0, 3.9 + (0.3 + 0.09 * len(curves)) * crowded)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (2, 3)))
    for i, (name, (false_positive, true_positive)) in enumerate(curves.items()):
        value = aucs.get(name)
        label = wrapped(name, 26) + ("" if value is None else f"  {value:.2f}")
        dash = DASHES[i // len(CYCLE) % len(DASHES)]
        axes.plot(false_positive, true_positive, dash, color=CYCLE[i % len(CYCLE)], label=label)
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.set(xlabel="False-positive rate (1 - specificity)", ylabel="True-positive rate (sensitivity)")
    axes.grid(True)
    if crowded:
        figure.legend(loc="outside lower left", ncols=2, title="ROC AUC", columnspacing=1)
    elif curves:
        axes.legend(loc="lower right", title="ROC AUC")
    else:
        say(axes, "no class has positive and negative samples")
    return figure


@styled
def confusion(matrix: NDArray[np.int64], classes: Sequence[str]) -> Figure:
    """Confusion matrix [C, C], rows the true class: counts, shaded by the share of the row."""
    figure, axes = new_figure(4.0, 3.9)
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    small = len(classes) > 8
    for row, column in np.ndindex(matrix.shape):
        value = share[row, column]
        axes.add_patch(Rectangle((column, row), 1, 1, facecolor=BLUE, alpha=float(value), linewidth=0))
        axes.add_patch(Rectangle((column, row), 1, 1, fill=False, edgecolor=GRID, linewidth=0.7))
        text = f"{matrix[row, column]}" + (f"\n{value:.0%}" if value > 0 and not small else "")
        colour = "white" if value > 0.75 else INK if value > 0 else MUTED
        axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=colour, fontsize=7.5)
    ticks = np.arange(len(classes)) + 0.5
    names = [wrapped(name, 14) for name in classes]
    axes.set_xticks(ticks, names, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(ticks, names)
    axes.set(xlim=(0, len(classes)), ylim=(len(classes), 0), aspect="equal")
    axes.set(xlabel="Predicted class", ylabel="True class")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


def dot_rows(axes: Axes, runs: Sequence[str], colours: Sequence[str]) -> list[Line2D]:
    """Style axes whose rows hold one dot per run; returns the legend's keys."""
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.grid(True, axis="x")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return [
        Line2D([], [], marker="o", linestyle="", markersize=5.5, color=colour, label=run)
        for run, colour in zip(runs, colours, strict=True)
    ]


@styled
def interval_plot(
    estimates: Mapping[str, Sequence[tuple[float | None, float | None, float | None]]],
    runs: Sequence[str],
    colours: Sequence[str],
) -> Figure:
    """Metric -> per run (value, low, high), each in [0, 1] or None: a dot with its 95% interval."""
    figure, axes = new_figure(4.0, 0.75 + 0.24 * len(estimates) * (len(runs) + 1))
    group = len(runs) + 1
    for i, found in enumerate(estimates.values()):
        for j, (value, low, high) in enumerate(found):
            y = i * group + j
            if low is not None and high is not None:
                axes.plot(
                    [low, high], [y, y], color=colours[j], linewidth=2.6, solid_capstyle="round", alpha=0.55
                )
            if value is not None:
                axes.plot([value], [y], "o", color=colours[j], markersize=5.5)
    names = [wrapped(name, 18) for name in estimates]
    axes.set_yticks([i * group + (len(runs) - 1) / 2 for i in range(len(estimates))], names)
    axes.set(ylim=(len(estimates) * group - 1.3, -0.7))
    axes.set(xlabel="Value, with 95% interval")
    keys = dot_rows(axes, runs, colours)
    figure.legend(handles=keys, loc="outside upper left", ncols=2 if len(runs) > 3 else len(runs))
    return figure


@styled
def uncertainty_histogram(uncertainty: Floats, right: NDArray[np.bool_], threshold: float | None) -> Figure:
    """Predictive entropy [n] (nats) of right and of wrong answers, as shares of each; `threshold`: the top quarter."""
    figure, axes = new_figure(4.0, 3.9)
    axes.set(xlabel="Predictive entropy (nats)", ylabel="Share of the answers")
    if len(uncertainty) == 0:
        say(axes, "no answer whose label is known")
        return figure
    top = float(uncertainty.max())
    bins = np.linspace(0, top if top > 0 else 1.0, 16)
    for chosen, colour, name in ((right, BLUE, "right"), (~right, VERMILLION, "wrong")):
        values = uncertainty[chosen]
        if len(values):
            shares = np.full(len(values), 1 / len(values))
            label = f"{name} answers (n = {len(values)})"
            axes.hist(values, bins, weights=shares, color=colour, alpha=0.30)
            axes.hist(values, bins, weights=shares, color=colour, histtype="step", linewidth=1.6, label=label)
    if threshold is not None:
        axes.axvline(threshold, color=MUTED, linestyle="--", linewidth=1, label="most uncertain quarter")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.grid(True, axis="y")
    figure.legend(loc="outside upper left", ncols=2)
    return figure


@styled
def training_curves(
    loss: tuple[Sequence[float], Sequence[float]],
    validation_auc: tuple[Sequence[float], Sequence[float]],
    chosen_step: int | None = None,
) -> Figure:
    """(steps, training loss) above (steps, validation macro AUC); a line marks the step of the evaluated weights."""
    figure, (upper, lower) = new_figure(4.0, 3.9, 2, 1, sharex=True)
    upper.plot(*loss, color=BLUE)
    upper.set_title("Training loss")
    lower.plot(*validation_auc, color=GREEN, marker="o", markersize=3)
    lower.set_title("Validation ROC AUC, macro")
    lower.set_xlabel("Optimizer step")
    for axes in (upper, lower):
        axes.grid(True)
        axes.margins(x=0.02)
        if chosen_step is not None:
            axes.axvline(chosen_step, color=MUTED, linestyle="--", linewidth=1)
    if chosen_step is not None:
        place: dict[str, Any] = {"xytext": (-4, 5), "textcoords": "offset points", "ha": "right"}
        bottom = {"xy": (chosen_step, 0), "xycoords": ("data", "axes fraction")}
        lower.annotate("evaluated", color=MUTED, fontsize=8, **bottom, **place)
    return figure


def wrapped(name: str, width: int) -> str:
    """A name over several lines, so that a legend or an axis stays narrow."""
    return fill(name, width, break_long_words=False)


def say(axes: Axes, message: str) -> None:
    """A sentence in the middle of axes that have nothing to show."""
    axes.text(0.5, 0.5, message, transform=axes.transAxes, ha="center", va="center", color=MUTED)
