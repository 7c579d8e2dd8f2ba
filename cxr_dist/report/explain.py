"""The picture of `cxr-dist predict`: one film, where the model looked, and how sure it is of each class."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cxr_dist.report.plots import BLUE, INK, MUTED, new_figure, styled

Floats = NDArray[np.float64]


@styled
def image_explanation(
    image: NDArray[np.uint8],
    heat: Floats | None,
    probabilities: Floats,
    bounds: Floats | None,
    classes: Sequence[str],
    *,
    explained: str | None = None,
) -> Figure:
    """Film, film with heat, and probabilities with their spread, side by side.

    Args:
        image: uint8 [H, W], grey.
        heat: [h, w], 0 or more, a coarse map that is stretched over the film; None for a model without image.
        probabilities: [C] in [0, 1].
        bounds: [C, 2], low and high of each probability over the stochastic passes; None without passes.
        classes: C names.
        explained: the class that the heat speaks for.
    """
    assert image.ndim == 2
    assert len(probabilities) == len(classes)
    height = max(3.4, 1.2 + 0.3 * len(classes))
    figure, axes = new_figure(10.5, height, 1, 3, width_ratios=(1, 1, 1.25))
    _film(axes[0], image, "Film")
    _film(axes[1], image, "Where it looked" + (f", for {explained}" if explained else ""))
    if heat is None:
        axes[1].text(0.5, 0.5, "no image encoder", transform=axes[1].transAxes, ha="center", color="white")
    else:
        _overlay(axes[1], heat, image.shape)
    _bars(axes[2], probabilities, bounds, classes)
    note = "Research software, not for clinical use. The heat shows what moved the answer, not a finding."
    figure.supxlabel(note, fontsize=8, color=MUTED)
    return figure


def _film(axes: Axes, image: NDArray[np.uint8], title: str) -> None:
    axes.imshow(image, cmap="gray", vmin=0, vmax=255)
    axes.set_title(title)
    axes.set_axis_off()


def _overlay(axes: Axes, heat: Floats, shape: tuple[int, ...]) -> None:
    top = float(heat.max())
    share = heat / top if top > 0 else np.zeros_like(heat)
    extent = (-0.5, shape[1] - 0.5, shape[0] - 0.5, -0.5)
    # Cool places stay clear, so that the film shows through where the model did not look.
    axes.imshow(
        share, cmap="inferno", vmin=0, vmax=1, alpha=0.65 * share, extent=extent, interpolation="bilinear"
    )


def _bars(axes: Axes, probabilities: Floats, bounds: Floats | None, classes: Sequence[str]) -> None:
    rows = np.arange(len(classes))
    axes.barh(rows, probabilities, color=BLUE, alpha=0.8, height=0.62)
    if bounds is not None:
        axes.hlines(rows, bounds[:, 0], bounds[:, 1], color=INK, linewidth=1.4)
        axes.plot(bounds, np.stack([rows, rows], axis=1), "|", color=INK, markersize=7)
    for row, value in zip(rows, probabilities, strict=True):
        edge = max(float(value), 0.0 if bounds is None else float(bounds[row, 1]))
        axes.annotate(
            f"{value:.0%}", (edge, row), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8
        )
    axes.set_yticks(rows, classes)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.12), xticks=np.linspace(0, 1, 5))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_title("Probability" + ("" if bounds is None else ", and its spread over the passes"))
    axes.grid(True, axis="x")
