"""Curves, the reliability diagram, risk over coverage and the forest plot show the given numbers."""

import numpy as np
import pytest
from made_runs import make_predictions
from matplotlib.figure import Figure

from cxr_dist.evaluate.calibration import reliability
from cxr_dist.evaluate.curves import GRID, Curve, roc_curves
from cxr_dist.evaluate.subgroups import subgroups
from cxr_dist.report import plots
from cxr_dist.report.curve_plots import banded, reliability_diagram, risk_coverage_plot
from cxr_dist.report.forest import forest
from cxr_dist.report.plots import PRECISION_RECALL, ROC


def legend(figure: Figure) -> list[str]:
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
    return [text.get_text() for legend in legends for text in legend.get_texts()]


def test_curve_and_band_are_drawn_as_given() -> None:
    macro = roc_curves(make_predictions(passes=0), 20).macro
    assert macro is not None
    figure = banded(ROC, {"a": macro}, {"a": 0.876}, [plots.GREEN])
    line, [band] = figure.axes[0].lines[1], figure.axes[0].collections  # the first line is the diagonal
    assert np.array_equal(line.get_ydata(), macro.y)
    assert line.get_color() == plots.GREEN
    corners = band.get_paths()[0].vertices
    assert {tuple(point) for point in zip(GRID, macro.low, strict=True)} <= set(map(tuple, corners))
    assert legend(figure) == ["a  0.88"]


def test_many_curves_have_no_bands_and_are_distinguishable() -> None:
    flat = Curve(y=GRID, low=GRID, high=GRID)
    figure = banded(PRECISION_RECALL, {f"class {i}": flat for i in range(14)}, {})
    assert len(figure.axes[0].collections) == 0
    looks = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}
    assert len(looks) == len(legend(figure)) == 14


def test_a_figure_without_curves_states_the_reason_and_undefined_bands_are_omitted() -> None:
    [text] = banded(ROC, {}, {}).axes[0].texts
    assert text.get_text() == "no class has both positive and negative samples"
    nothing = np.full(101, np.nan)
    assert len(banded(ROC, {"a": Curve(y=GRID, low=nothing, high=nothing)}, {}).axes[0].collections) == 0


def test_reliability_diagram_shows_both_calibrations() -> None:
    random = np.random.default_rng(0)
    p = random.random(200)
    bins = reliability(p, random.random(200) < p)
    figure = reliability_diagram(bins, bins, plots.BLUE)
    for line in figure.axes[0].lines[1:]:
        assert np.array_equal(line.get_ydata(), bins.frequency)
    assert legend(figure) == [
        f"uncalibrated, ECE {bins.error:.3f}",
        f"calibrated, ECE {bins.error:.3f}",
    ]
    assert len(legend(reliability_diagram(bins, None, plots.BLUE))) == 1


def test_risk_over_coverage_omits_the_first_few_predictions() -> None:
    coverage = np.arange(1, 101) / 100
    figure = risk_coverage_plot({"a": (coverage, coverage / 2)}, {"a": 0.2525}, [plots.BLUE])
    assert figure.axes[0].lines[0].get_xdata()[0] == 0.02
    assert figure.axes[0].lines[0].get_ydata()[-1] == 0.5
    assert legend(figure) == ["a  0.253"] or legend(figure) == ["a  0.252"]
    assert risk_coverage_plot({}, {}, []).axes[0].texts[0].get_text() == "no stochastic passes were run"


@pytest.mark.parametrize("n", [40, 800])
def test_forest_has_a_dot_for_each_run_and_subgroup_and_hollow_dots_for_small_subgroups(n: int) -> None:
    runs = [make_predictions(n=n, passes=0, seed=seed) for seed in (0, 1)]
    groups = [subgroups(run, n_bootstrap=20)["view"] for run in runs]
    whole = {"n": n, "macro_roc_auc": {"value": 0.8, "low": 0.7, "high": 0.9}, "note": ""}
    figure = forest(groups, [whole, whole], ["a", "b"], [plots.BLUE, plots.GREEN])
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert len(dots) == 2 * (1 + len(groups[0]))
    drawn = [dot.get_xdata()[0] for dot in dots if dot.get_color() == plots.BLUE]
    assert drawn == [0.8] + [group["macro_roc_auc"]["value"] for group in groups[0].values()]
    small = [group["note"] != "" for group in groups[0].values()]
    assert [dot.get_fillstyle() == "none" for dot in dots[:5]] == [False, *small]
    assert ("too few cases" in legend(figure)) == any(small)
