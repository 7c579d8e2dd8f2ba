"""Arrays in, figures out: ROC and precision–recall curves with their bands, reliability, risk over coverage."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cxr_dist.evaluate.arrays import Floats
from cxr_dist.evaluate.calibration import Reliability
from cxr_dist.evaluate.curves import GRID, Curve
from cxr_dist.report.plots import CYCLE, DASHES, MUTED, new_figure, say, styled, wrapped

_MOST_BANDS = 4  # more would cover each other


@dataclass(frozen=True, kw_only=True)
class CurveKind:
    """What a curve's axes and its area are called."""

    x: str
    y: str
    area: str
    diagonal: bool
    place: str
    most_keys: int
    """With more curves the legend would cover them, and goes below."""


ROC = CurveKind(
    x="False-positive rate (1 - specificity)",
    y="True-positive rate (sensitivity)",
    area="ROC AUC",
    diagonal=True,
    place="lower right",
    most_keys=6,
)
PRECISION_RECALL = CurveKind(
    x="Recall (sensitivity)",
    y="Precision",
    area="Average precision",
    diagonal=False,
    place="lower left",
    most_keys=3,
)


@styled
def banded(
    kind: CurveKind,
    curves: Mapping[str, Curve],
    areas: Mapping[str, float | None],
    colours: Sequence[str] = CYCLE,
) -> Figure:
    """Curves by name over [0, 1], each with its 95% band (up to four curves); the legend has the area."""
    crowded = len(curves) > kind.most_keys
    figure, axes = new_figure(4.0, 3.9 + (0.3 + 0.09 * len(curves)) * crowded)
    if kind.diagonal:
        _diagonal(axes)
    for i, (name, curve) in enumerate(curves.items()):
        colour, dash = colours[i % len(colours)], DASHES[i // len(colours) % len(DASHES)]
        if len(curves) <= _MOST_BANDS and np.isfinite(curve.low).all():
            axes.fill_between(GRID, curve.low, curve.high, color=colour, alpha=0.11, linewidth=0)
        area = areas.get(name)
        label = wrapped(name, 26) + ("" if area is None else f"  {area:.2f}")
        axes.plot(GRID, curve.y, dash, color=colour, label=label)
    _unit_square(axes)
    axes.set(xlabel=kind.x, ylabel=kind.y)
    if crowded:
        figure.legend(loc="outside lower left", ncols=2, title=kind.area, columnspacing=1)
    elif curves:
        axes.legend(loc=kind.place, title=kind.area)
    else:
        say(axes, "no class has positive and negative samples")
    return figure


@styled
def reliability_diagram(before: Reliability, after: Reliability | None, colour: str) -> Figure:
    """How often what was stated came true, in equal-mass bins: as trained, and after temperature scaling."""
    figure, axes = new_figure(4.0, 3.9)
    _diagonal(axes)
    for bins, mark, name in ((before, "o-", "as trained"), (after, "s--", "temperature-scaled")):
        if bins is not None:
            faint = 1.0 if mark == "o-" else 0.6
            label = f"{name}, ECE {bins.error:.3f}"
            axes.plot(
                bins.probability, bins.frequency, mark, color=colour, alpha=faint, markersize=4.5, label=label
            )
    _unit_square(axes)
    axes.set(xlabel="Stated probability", ylabel="Share that came true")
    figure.legend(loc="outside upper left", ncols=2)
    return figure


@styled
def risk_coverage_plot(
    lines: Mapping[str, tuple[Floats, Floats]], areas: Mapping[str, float | None], colours: Sequence[str]
) -> Figure:
    """Run -> (coverage, risk), each [k] in [0, 1]: the share of mistakes when only the surest are answered."""
    figure, axes = new_figure(4.0, 3.9)
    for (name, (coverage, risk)), colour in zip(lines.items(), colours, strict=True):
        area = areas.get(name)
        label = wrapped(name, 26) + ("" if area is None else f"  {area:.3f}")
        # Below a few answers the risk jumps between 0 and 1 and says nothing.
        shown = coverage >= 0.02
        axes.plot(coverage[shown], risk[shown], color=colour, label=label)
    axes.set(xlim=(-0.01, 1.01), xlabel="Coverage: share answered, surest first", ylabel="Share of mistakes")
    axes.set_ylim(bottom=0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.grid(True)
    if lines:
        figure.legend(loc="outside upper left", ncols=2, title="Area (AURC), lower is better")
    else:
        say(axes, "no stochastic passes were run")
    return figure


def _diagonal(axes: Axes) -> None:
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=(0, (2, 3)))


def _unit_square(axes: Axes) -> None:
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.grid(True)
