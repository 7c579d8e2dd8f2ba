"""Forest plot of subgroups: one row for each subgroup, with a dot and a 95% confidence interval for each run."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cxr_dist.report.plots import MUTED, dot_rows, new_figure, styled, wrapped

Groups = Mapping[str, Mapping[str, Any]]


@styled
def forest(
    groups: Sequence[Groups],
    overall: Sequence[Mapping[str, Any]],
    runs: Sequence[str],
    colours: Sequence[str],
) -> Figure:
    """Draw the macro ROC AUC of each run's subgroups, as `subgroups` returns them for one attribute.

    `overall` holds one group with all images for each run; dotted lines mark its values. Groups with a note, because a
    class has too few positives or negatives, are drawn with hollow dots.
    """
    rows = [{"all images": whole} | dict(own) for whole, own in zip(overall, groups, strict=True)]
    labels, step = list(rows[0]), len(runs) + 1
    figure, axes = new_figure(4.4, 1.0 + 0.2 * len(labels) * step)
    for j, (by_name, colour) in enumerate(zip(rows, colours, strict=True)):
        for i, name in enumerate(labels):
            _row(axes, i * step + j, by_name[name], colour)
        value = by_name["all images"]["macro_roc_auc"]["value"]
        if value is not None:
            axes.axvline(value, color=colour, linestyle=":", linewidth=0.9)
    names = [f"{wrapped(name, 18)}  (n = {rows[0][name]['n']})" for name in labels]
    axes.set_yticks([i * step + (len(runs) - 1) / 2 for i in range(len(labels))], names)
    axes.set(ylim=(len(labels) * step - 1.3, -0.8), xlabel="ROC AUC, macro, with 95% confidence interval")
    keys = dot_rows(axes, runs, colours)
    hollow = Line2D([], [], marker="o", linestyle="", color=MUTED, fillstyle="none", label="too few cases")
    small = any(by_name[name]["note"] for by_name in rows for name in labels)
    figure.legend(handles=[*keys, *[hollow] * small], loc="outside upper left", ncols=3)
    return figure


def _row(axes: Axes, y: float, group: Mapping[str, Any], colour: str) -> None:
    auc, fill = group["macro_roc_auc"], "none" if group["note"] else "full"
    if auc["low"] is not None:
        ends = [auc["low"], auc["high"]]
        axes.plot(ends, [y, y], color=colour, linewidth=2.2, solid_capstyle="round", alpha=0.55)
    if auc["value"] is not None:
        axes.plot([auc["value"]], [y], "o", color=colour, markersize=5.5, fillstyle=fill)
