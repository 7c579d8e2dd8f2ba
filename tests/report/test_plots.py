"""The figures show the numbers that they were given, and leave matplotlib's global state alone."""

import re
import subprocess
import sys
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from made_runs import CLASSES, make_predictions
from matplotlib.figure import Figure

from cxr_dist.evaluate.metrics import confusion_matrix, curves
from cxr_dist.report import plots
from cxr_dist.report.svg import to_svg


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def legend(figure: Figure) -> list[str]:
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
    return [text.get_text() for found in legends for text in found.get_texts()]


def test_roc_draws_each_curve_with_its_auc() -> None:
    found = curves(make_predictions(passes=0))
    figure = plots.roc(found, {name: 0.5 + i / 10 for i, name in enumerate(CLASSES)})
    drawn = figure.axes[0].lines[1:]  # the first line is the diagonal
    for line, (false_positive, true_positive) in zip(drawn, found.values(), strict=True):
        assert np.array_equal(line.get_xdata(), false_positive)
        assert np.array_equal(line.get_ydata(), true_positive)
    assert legend(figure)[:2] == ["normal  0.50", "cardiomegaly  0.60"]


def test_roc_of_many_classes_tells_them_all_apart() -> None:
    line = (np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    figure = plots.roc({f"class {i}": line for i in range(14)}, {})
    looks = {(drawn.get_color(), drawn.get_linestyle()) for drawn in figure.axes[0].lines[1:]}
    assert len(looks) == len(legend(figure)) == 14


def test_roc_without_a_curve_says_why() -> None:
    assert texts(plots.roc({}, {})) == ["no class has positive and negative samples"]


def test_confusion_shows_counts_and_shares_of_the_row() -> None:
    figure = plots.confusion(np.array([[3, 1], [0, 0]]), ["a", "b"])
    assert texts(figure) == ["3\n75%", "1\n25%", "0", "0"]
    made = make_predictions(passes=0)
    shown = sum(int(text.split("\n")[0]) for text in texts(plots.confusion(confusion_matrix(made), CLASSES)))
    assert shown == len(made)


def test_intervals_leave_out_what_is_not_defined() -> None:
    estimates = {"AUC": [(0.8, 0.7, 0.9), (None, None, None)], "F1": [(0.5, None, None), (0.6, 0.5, 0.7)]}
    axes = plots.interval_plot(estimates, ["a", "b"], [plots.BLUE, plots.GREEN]).axes[0]
    dots = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
    whiskers = [list(line.get_xdata()) for line in axes.lines if line.get_marker() != "o"]
    assert dots == [0.8, 0.5, 0.6]
    assert whiskers == [[0.7, 0.9], [0.5, 0.7]]


def test_histogram_bars_are_shares_of_right_and_of_wrong_answers() -> None:
    uncertainty = np.array([0.0, 0.1, 0.2, 1.0, 1.1])
    right = np.array([True, True, True, False, False])
    figure = plots.uncertainty_histogram(uncertainty, right, 0.9)
    bars = [sum(bar.get_height() for bar in found) for found in figure.axes[0].containers]
    assert bars == pytest.approx([1, 1])
    assert legend(figure) == [
        "right answers (n = 3)",
        "wrong answers (n = 2)",
        "most uncertain quarter",
    ]


@pytest.mark.parametrize("uncertainty", [np.zeros(3), np.zeros(0), np.ones(1)])
def test_histogram_of_constant_or_no_uncertainty(uncertainty: np.ndarray) -> None:
    figure = plots.uncertainty_histogram(uncertainty, np.ones(len(uncertainty), dtype=bool), None)
    low, high = figure.axes[0].get_xlim()
    assert low < high


def test_training_curves_share_their_steps_and_mark_the_checkpoint() -> None:
    figure = plots.training_curves(([1, 2], [0.9, 0.8]), ([2], [0.7]), 2)
    upper, lower = figure.axes
    assert [list(line.get_ydata()) for line in (upper.lines[0], lower.lines[0])] == [[0.9, 0.8], [0.7]]
    assert {line.get_xdata()[0] for line in (upper.lines[1], lower.lines[1])} == {2}
    assert upper.get_xlim() == lower.get_xlim()


def test_style_stays_inside() -> None:
    before = dict(mpl.rcParams)
    to_svg(plots.roc({}, {}), "roc", "a figure")
    assert dict(mpl.rcParams) == before
    code = "import sys, cxr_dist.report.page; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_svg_is_well_formed_themed_and_repeatable() -> None:
    def draw(name: str) -> str:
        figure = plots.confusion(np.array([[3, 1], [0, 2]]), ["<a>", "b & c"])
        return to_svg(figure, name, 'say "so" & <so>')

    svg = draw("one")
    assert svg == draw("one")
    root = ElementTree.fromstring(svg)
    assert root.attrib["aria-label"] == 'say "so" & <so>'
    assert "viewBox" in root.attrib
    assert "width" not in root.attrib
    assert "var(--ink)" in svg
    assert not re.search("|".join((plots.INK, plots.MUTED, plots.GRID, "DejaVu", "<metadata")), svg)
    ids = [set(re.findall(r'\bid="([^"]+)"', text)) for text in (svg, draw("two"))]
    assert ids[0]
    assert not ids[0] & ids[1]
