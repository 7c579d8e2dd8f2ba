"""Matplotlib figures of arrays: ROC curves, intervals, uncertainty and training curves.

Figures are created without pyplot, which has global state. The palette of Okabe and Ito (2008) is distinguishable for
colour-blind readers. The page replaces the other colours, which are named here, by those of its light or dark theme.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from itertools import islice
from textwrap import fill
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from cxr_dist.evaluate.arrays import Bools, Floats
from cxr_dist.evaluate.run_result import Estimate

Drawing = ParamSpec("Drawing")

INK, MUTED, GRID_COLOUR, SURFACE = "#1b222b", "#59646f", "#d3d9df", "#fffffe"
CYCLE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
BLUE, VERMILLION, GREEN, _, ORANGE, _ = CYCLE
MODE_COLOURS = {"image": BLUE, "text": ORANGE, "fused": GREEN}
DASHES = ("-", "--", ":")
MOST_CURVES = len(CYCLE) * len(DASHES)  # more would look alike, and their legend would have no room

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
    "grid.color": GRID_COLOUR,
    "grid.linewidth": 0.7,
    "figure.facecolor": SURFACE,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.title_fontsize": 8,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.6,
    "text.parse_math": False,  # a class may be named `$\\foo$`, which as a formula is an error
}


def styled(draw: Callable[Drawing, Figure]) -> Callable[Drawing, Figure]:
    """Decorate a drawing function to use the common style without changing matplotlib's settings."""

    @wraps(draw)
    def draw_in_style(*args: Drawing.args, **options: Drawing.kwargs) -> Figure:
        with mpl.rc_context(_STYLE):
            return draw(*args, **options)

    return draw_in_style


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """Return a figure of width × height inches and its axes (an array if there are several)."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


@dataclass(frozen=True, kw_only=True)
class CurveKind:
    """Labels and layout of a kind of curve in the unit square."""

    name: str
    x: str
    y: str
    area: str
    metric: str
    """Key of the area among the metrics of a class."""
    diagonal: bool
    legend: str
    """Location of the legend inside the axes."""
    most_in_legend: int
    """With more curves the legend would cover them and is placed below the axes."""


ROC = CurveKind(
    name="ROC",
    x="False-positive rate (1 - specificity)",
    y="True-positive rate (sensitivity)",
    area="ROC AUC",
    metric="roc_auc",
    diagonal=True,
    legend="lower right",
    most_in_legend=6,
)
PRECISION_RECALL = CurveKind(
    name="precision–recall",
    x="Recall (sensitivity)",
    y="Precision",
    area="Average precision",
    metric="average_precision",
    diagonal=False,
    legend="lower left",
    most_in_legend=3,
)


def draw_curves(
    kind: CurveKind,
    curves: Mapping[str, tuple[Floats, Floats]],
    areas: Mapping[str, float | None],
    colours: Sequence[str] = CYCLE,
) -> tuple[Figure, Axes]:
    """Draw the first MOST_CURVES curves (x, y), each [k] in [0, 1], by name; the legend shows the areas."""
    drawn = dict(islice(curves.items(), MOST_CURVES))
    known = {name: area for name in drawn if (area := areas.get(name)) is not None}
    labels = [wrapped(name, 26) + (f"  {known[name]:.2f}" if name in known else "") for name in drawn]
    crowded = len(drawn) > kind.most_in_legend
    half = (len(labels) + 1) // 2  # the legend has two columns
    lines = max(sum(1 + label.count("\n") for label in column) for column in (labels[:half], labels[half:]))
    figure, axes = new_figure(4.0, 3.9 + (0.3 + 0.18 * lines) * crowded)
    unit_square(axes, kind.diagonal)
    for i, ((x, y), label) in enumerate(zip(drawn.values(), labels, strict=True)):
        colour, dash = colours[i % len(colours)], DASHES[i // len(colours) % len(DASHES)]
        axes.plot(x, y, dash, color=colour, label=label)
    axes.set(xlabel=kind.x, ylabel=kind.y)
    if crowded:
        title = kind.area + f", first {len(drawn)} of {len(curves)}" * (len(drawn) < len(curves))
        figure.legend(loc="outside lower left", ncols=2, title=title, columnspacing=1)
    elif curves:
        axes.legend(loc=kind.legend, title=kind.area)
    else:
        show_message(axes, "no class has both positive and negative samples")
    return figure, axes


def unit_square(axes: Axes, diagonal: bool) -> None:
    """Limit axes to [0, 1] in both directions, and draw the diagonal if wanted."""
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.grid(True)
    if diagonal:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (2, 3)))


@styled
def roc(curves: Mapping[str, tuple[Floats, Floats]], aucs: Mapping[str, float | None]) -> Figure:
    """Draw ROC curves (false-positive rate, true-positive rate) by name; the legend shows the AUC."""
    return draw_curves(ROC, curves, aucs)[0]


def dot_rows(axes: Axes, runs: Sequence[str], colours: Sequence[str]) -> list[Line2D]:
    """Style axes with a dot for each run in a row, and return the handles of the legend."""
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.grid(True, axis="x")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return [
        Line2D([], [], marker="o", linestyle="", markersize=5.5, color=colour, label=wrapped(run, 26))
        for run, colour in zip(runs, colours, strict=True)
    ]


@styled
def interval_plot(estimates: Mapping[str, Sequence[Estimate]], runs: Sequence[str], colours: Sequence[str]) -> Figure:
    """Draw a dot with its 95% confidence interval for each metric and run; `estimates` maps metrics to one per run."""
    figure, axes = new_figure(4.0, 0.75 + 0.24 * len(estimates) * (len(runs) + 1))
    group = len(runs) + 1
    for i, of_runs in enumerate(estimates.values()):
        for j, (estimate, colour) in enumerate(zip(of_runs, colours, strict=True)):
            y = i * group + j
            if estimate.low is not None:
                ends = [estimate.low, estimate.high]
                axes.plot(ends, [y, y], color=colour, linewidth=2.6, solid_capstyle="round", alpha=0.55)
            if estimate.value is not None:
                axes.plot([estimate.value], [y], "o", color=colour, markersize=5.5)
    names = [wrapped(name, 18) for name in estimates]
    axes.set_yticks([i * group + (len(runs) - 1) / 2 for i in range(len(estimates))], names)
    axes.set(ylim=(len(estimates) * group - 1.3, -0.7), xlabel="Value with 95% confidence interval")
    figure.legend(
        handles=dot_rows(axes, runs, colours),
        loc="outside upper left",
        ncols=2 if len(runs) > 3 else len(runs),
    )
    return figure


@styled
def uncertainty_histogram(uncertainty: Floats, correct: Bools, threshold: float | None) -> Figure:
    """Draw the distributions of the predictive entropy [n] (nats) of correct and of incorrect predictions.

    `threshold` is where the most uncertain quarter starts.
    """
    figure, axes = new_figure(4.0, 3.9)
    axes.set(xlabel="Predictive entropy (nats)", ylabel="Share of the predictions")
    if len(uncertainty) == 0:
        show_message(axes, "no label is known")
        return figure
    top = float(uncertainty.max())
    bins = np.linspace(0, top if top > 0 else 1.0, 16)
    for chosen, colour, name in ((correct, BLUE, "correct"), (~correct, VERMILLION, "incorrect")):
        values = uncertainty[chosen]
        if len(values):
            shares = np.full(len(values), 1 / len(values))
            label = f"{name} predictions (n = {len(values)})"
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
    validation: tuple[Sequence[float], Sequence[float]],
    chosen_step: int | None = None,
    score: str = "ROC AUC, macro",
) -> Figure:
    """Draw (steps, training loss) above (steps, validation score) and mark the step of the evaluated checkpoint."""
    figure, (upper, lower) = new_figure(4.0, 3.9, 2, 1, sharex=True)
    upper.plot(*loss, color=BLUE)
    upper.set_title("Training loss")
    lower.plot(*validation, color=GREEN, marker="o", markersize=3)
    lower.set_title(f"Validation {score}")
    lower.set_xlabel("Optimizer step")
    for axes in (upper, lower):
        axes.grid(True)
        axes.margins(x=0.02)
        if chosen_step is not None:
            axes.axvline(chosen_step, color=MUTED, linestyle="--", linewidth=1)
    if chosen_step is not None:
        place = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "ha": "right"}
        lower.annotate("evaluated", (chosen_step, 0), (-4, 5), color=MUTED, fontsize=8, **place)
    return figure


def wrapped(name: str, width: int) -> str:
    """Wrap a name to at most three lines, with long words cut, so that a legend or an axis stays narrow.

    Control characters become □. A legend would leave out a name that starts with `_`, so a space comes before it.
    """
    drawn = "".join(c if c.isprintable() or c.isspace() else "□" for c in name)
    longest = width + width // 2
    words = (word if len(word) <= longest else word[: longest - 1] + "…" for word in drawn.split())
    lines = fill(" ".join(words), width, break_long_words=False, max_lines=3, placeholder=" …")
    return f" {lines}" if lines.startswith("_") else lines


def show_message(axes: Axes, message: str) -> None:
    """Write a message in the centre of axes that have no data."""
    axes.text(0.5, 0.5, message, transform=axes.transAxes, ha="center", va="center", color=MUTED)
