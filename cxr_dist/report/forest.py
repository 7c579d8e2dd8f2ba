"""Subgroups in, a forest plot out: a row per subgroup, a dot and a 95% interval per run."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cxr_dist.evaluate.subgroups import SMALL
from cxr_dist.report.plots import MUTED, dot_rows, new_figure, styled, wrapped

Groups = Mapping[str, Mapping[str, Any]]


@styled
def forest(
    groups: Sequence[Groups],
    overall: Sequence[Mapping[str, Any]],
    runs: Sequence[str],
    colours: Sequence[str],
) -> Figure:
    """Macro ROC AUC, per run: `groups` as `subgroups` has them for one attribute, `overall` as one such group.

    A subgroup below SMALL images is drawn hollow. The dashed lines are the values of all images together.
    """
    rows = [{"all images": whole} | dict(found) for whole, found in zip(overall, groups, strict=True)]
    labels, step = list(rows[0]), len(runs) + 1
    figure, axes = new_figure(4.4, 1.0 + 0.2 * len(labels) * step)
    for j, (found, colour) in enumerate(zip(rows, colours, strict=True)):
        for i, name in enumerate(labels):
            _row(axes, i * step + j, found[name], colour)
        if found["all images"]["macro_roc_auc"]["value"] is not None:
            axes.axvline(
                found["all images"]["macro_roc_auc"]["value"], color=colour, linestyle=":", linewidth=0.9
            )
    names = [f"{wrapped(name, 18)}  (n = {rows[0][name]['n']})" for name in labels]
    axes.set_yticks([i * step + (len(runs) - 1) / 2 for i in range(len(labels))], names)
    axes.set(ylim=(len(labels) * step - 1.3, -0.8), xlabel="ROC AUC, macro, with 95% interval")
    keys = dot_rows(axes, runs, colours)
    hollow = Line2D([], [], marker="o", linestyle="", color=MUTED, fillstyle="none", label=f"n < {SMALL}")
    small = any(found[name]["n"] < SMALL for found in rows for name in labels)
    figure.legend(handles=[*keys, *[hollow] * small], loc="outside upper left", ncols=3)
    return figure


def _row(axes: Any, y: float, group: Mapping[str, Any], colour: str) -> None:
    found, fill = group["macro_roc_auc"], "none" if group["n"] < SMALL else "full"
    if found["low"] is not None:
        ends = [found["low"], found["high"]]
        axes.plot(ends, [y, y], color=colour, linewidth=2.2, solid_capstyle="round", alpha=0.55)
    if found["value"] is not None:
        axes.plot([found["value"]], [y], "o", color=colour, markersize=5.5, fillstyle=fill)
