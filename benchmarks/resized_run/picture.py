"""Draw the result of benchmarks.resized_run: the losses of both runs, and below their relative difference.

The picture is an SVG without a background, whose mid-tone colours can be read on white and on black.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, QUIET, BLUE, ORANGE, GREEN, PURPLE = "#7b8794", "#9aa5b1", "#2b8ac6", "#dd6b20", "#2f9e6b", "#9f7aea"
_INKED = ("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor")
STYLE = {
    "font.size": 10,
    "svg.hashsalt": "resized-run",
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(_INKED, INK),
}
_WORDS = {"SIGKILL": "kill -9", "SIGTERM": "preempted"}
_LINES = (  # way, run, colour, name
    ("fp32", "four ranks", QUIET, "float32, four ranks undisturbed"),
    ("fp32", "disturbed", ORANGE, "float32, disturbed"),
    ("fp64", "disturbed", GREEN, "float64, disturbed"),
    ("fp32, exact sums", "disturbed", PURPLE, "exact sums, disturbed"),
)
_SMALLEST = 1e-17  # below it the axis is linear, so that it reaches zero


def residual(result: dict[str, Any], way: str, run: str = "disturbed") -> list[float]:
    """The relative difference, per step, between a run's loss and that of the undisturbed run on one rank."""
    losses = result[way]
    return [abs(loss - alone) / alone for loss, alone in zip(losses[run], losses["one rank"], strict=True)]


def draw(result: dict[str, Any], path: Path) -> None:
    """Write the picture; equal results give equal bytes."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 5.6), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        _draw_losses(upper, result["fp64"])
        _draw_residuals(lower, result)
        for axes in (upper, lower):
            for event in result["fp64"]["events"]:
                axes.axvline(event["after_step"] + 0.5, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        _name_stages(upper, result["fp64"])
        figure.savefig(path, format="svg", transparent=True, metadata={"Date": None})


def _draw_losses(axes: Axes, losses: dict[str, Any]) -> None:
    steps = range(1, len(losses["disturbed"]) + 1)
    axes.plot(steps, losses["one rank"], color=BLUE, linewidth=5, alpha=0.55, label="one rank undisturbed")
    axes.plot(steps, losses["disturbed"], color=ORANGE, linewidth=1.4, label="disturbed")
    axes.set(ylabel="Training loss (float64)", ylim=(None, max(losses["one rank"]) * 1.12))  # room for the labels
    axes.legend(loc="lower left", frameon=False, labelcolor=INK)


def _draw_residuals(axes: Axes, result: dict[str, Any]) -> None:
    """Draw the differences on a logarithmic axis that ends in zero, where a step without a difference has its dot."""
    for way, run, colour, name in _LINES:
        differences = residual(result, way, run)
        steps = range(1, len(differences) + 1)
        axes.plot(steps, differences, "o-", color=colour, markersize=2.4, linewidth=0.9, label=name)
    axes.set(xlabel="Optimizer step", ylabel="Relative difference\nfrom one rank")
    axes.set_yscale("symlog", linthresh=_SMALLEST)
    axes.set(ylim=(-_SMALLEST / 3, 1), yticks=[0, 1e-16, 1e-12, 1e-8, 1e-4, 1])
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 0.97),
        ncols=4,
        columnspacing=1.2,
        frameon=False,
        labelcolor=INK,
        fontsize=8.5,
    )


def _name_stages(axes: Axes, losses: dict[str, Any]) -> None:
    """Write the number of ranks above each stage, and what ended it."""
    events, last = losses["events"], len(losses["disturbed"])
    edges = [0.5, *(event["after_step"] + 0.5 for event in events), last + 0.5]
    sizes = [events[0]["ranks"], *(event["ranks_then"] for event in events)]
    place: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "ha": "center"}
    for (left, right), ranks in zip(pairwise(edges), sizes, strict=True):
        axes.text((left + right) / 2, 1.02, f"{ranks} rank{'s' * (ranks > 1)}", fontweight="bold", **place)
    for event in events:
        again = event["after_step"] - event["resumed_after_step"]
        what = f"{_WORDS[event['signal']]}\nafter step {event['after_step']}\n"
        what += f"{again} step{'s' * (again != 1)} repeated" if again else "saved there"
        axes.text(event["after_step"] + 1.1, 0.97, what, fontsize=8.5, va="top", **place | {"ha": "left"})
