"""Figures of curves: ROC and precision–recall with confidence bands, reliability diagram, risk over coverage."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from cxr_dist.evaluate.arrays import Floats
from cxr_dist.evaluate.calibration import Reliability
from cxr_dist.evaluate.curves import GRID, Curve
from cxr_dist.report.plots import (
    CYCLE,
    CurveKind,
    draw_curves,
    new_figure,
    show_message,
    styled,
    unit_square,
    wrapped,
)

_MOST_BANDS = 4  # more bands would cover each other


@styled
def banded(
    kind: CurveKind,
    curves: Mapping[str, Curve],
    areas: Mapping[str, float | None],
    colours: Sequence[str] = CYCLE,
) -> Figure:
    """Draw curves by name, up to four of them with their 95% bands; the legend shows the areas."""
    figure, axes = draw_curves(kind, {name: (GRID, curve.y) for name, curve in curves.items()}, areas, colours)
    if len(curves) <= _MOST_BANDS:
        for curve, colour in zip(curves.values(), colours, strict=False):
            if np.isfinite(curve.low).all():
                axes.fill_between(GRID, curve.low, curve.high, color=colour, alpha=0.11, linewidth=0)
    return figure


@styled
def reliability_diagram(before: Reliability, after: Reliability | None, colour: str) -> Figure:
    """Draw observed frequency over predicted probability in equal-mass bins, before and after calibration."""
    figure, axes = new_figure(4.0, 3.9)
    unit_square(axes, diagonal=True)
    for bins, mark, name, alpha in (
        (before, "o-", "uncalibrated", 1.0),
        (after, "s--", "calibrated", 0.6),
    ):
        if bins is not None:
            style = {
                "color": colour,
                "alpha": alpha,
                "markersize": 4.5,
                "label": f"{name}, ECE {bins.error:.3f}",
            }
            axes.plot(bins.probability, bins.frequency, mark, **style)
    axes.set(xlabel="Predicted probability", ylabel="Observed frequency")
    figure.legend(loc="outside upper left", ncols=2)
    return figure


@styled
def risk_coverage_plot(
    lines: Mapping[str, tuple[Floats, Floats]], areas: Mapping[str, float | None], colours: Sequence[str]
) -> Figure:
    """Draw the error rate over coverage; `lines` maps each run to (coverage, risk), each [k] in [0, 1]."""
    figure, axes = new_figure(4.0, 3.9)
    for (name, (coverage, risk)), colour in zip(lines.items(), colours, strict=True):
        area = areas.get(name)
        label = wrapped(name, 26) + ("" if area is None else f"  {area:.3f}")
        shown = coverage >= 0.02  # below a few predictions the error rate jumps between 0 and 1
        axes.plot(coverage[shown], risk[shown], color=colour, label=label)
    axes.set(xlim=(-0.01, 1.01), xlabel="Coverage, most confident predictions first", ylabel="Error rate")
    axes.set_ylim(bottom=0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.grid(True)
    if lines:
        figure.legend(loc="outside upper left", ncols=2, title="Area (AURC), lower is better")
    else:
        show_message(axes, "no stochastic passes were run")
    return figure
