"""The confusion matrix as a figure: with counts for a few classes, as shades alone for many."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from cxr_dist.evaluate.arrays import Floats
from cxr_dist.report.plots import BLUE, GRID_COLOUR, INK, MUTED, new_figure, styled, wrapped

_MOST_WITH_SHARES = 8
_MOST_WITH_COUNTS = 24  # the text of more classes would not fit into their cells
_SHADES = LinearSegmentedColormap.from_list("shades", [f"{BLUE}00", BLUE])


@styled
def confusion(matrix: NDArray[np.int64], classes: Sequence[str]) -> Figure:
    """Draw a confusion matrix [C, C], whose rows are the true classes, shaded by the share of the row.

    With more than 24 classes the cells have no text, and the axes show the classes' numbers, counted from 1.
    """
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    figure, axes = new_figure(4.0, 3.9)
    if len(classes) > _MOST_WITH_COUNTS:
        _shades(axes, share)
    else:
        _cells(axes, matrix, share)
        ticks = np.arange(len(classes)) + 0.5
        names = [wrapped(name, 14) for name in classes]
        axes.set_xticks(ticks, names, rotation=35, ha="right", rotation_mode="anchor")
        axes.set_yticks(ticks, names)
        axes.set(xlim=(0, len(classes)), ylim=(len(classes), 0), aspect="equal")
        axes.set(xlabel="Predicted class", ylabel="True class")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


def _cells(axes: Axes, matrix: NDArray[np.int64], share: Floats) -> None:
    for row, column in np.ndindex(matrix.shape):
        value = share[row, column]
        axes.add_patch(Rectangle((column, row), 1, 1, facecolor=BLUE, alpha=float(value), linewidth=0))
        axes.add_patch(Rectangle((column, row), 1, 1, fill=False, edgecolor=GRID_COLOUR, linewidth=0.7))
        text = f"{matrix[row, column]}" + (f"\n{value:.0%}" if value > 0 and len(matrix) <= _MOST_WITH_SHARES else "")
        colour = "white" if value > 0.75 else INK if value > 0 else MUTED
        axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=colour, fontsize=7.5)


def _shades(axes: Axes, share: Floats) -> None:
    end = len(share) + 0.5
    axes.imshow(share, cmap=_SHADES, vmin=0, vmax=1, extent=(0.5, end, end, 0.5), interpolation="nearest")
    axes.add_patch(Rectangle((0.5, 0.5), len(share), len(share), fill=False, edgecolor=GRID_COLOUR, linewidth=0.7))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set(xlim=(0.5, end), ylim=(end, 0.5))
    axes.set(xlabel=f"Number of the predicted class, of {len(share)}", ylabel="Number of the true class")
