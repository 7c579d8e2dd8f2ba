"""The figures show the given numbers and do not change matplotlib's global state."""

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
from cxr_dist.evaluate.run_result import Estimate
from cxr_dist.report import plots
from cxr_dist.report.confusion_plot import confusion
from cxr_dist.report.svg import to_svg


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def legend(figure: Figure) -> list[str]:
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
    return [text.get_text() for legend in legends for text in legend.get_texts()]


def test_roc_draws_each_curve_with_its_auc() -> None:
    by_class = curves(make_predictions(passes=0))
    figure = plots.roc(by_class, {name: 0.5 + i / 10 for i, name in enumerate(CLASSES)})
    drawn = figure.axes[0].lines[1:]  # the first line is the diagonal
    for line, (false_positive, true_positive) in zip(drawn, by_class.values(), strict=True):
        assert np.array_equal(line.get_xdata(), false_positive)
        assert np.array_equal(line.get_ydata(), true_positive)
    assert legend(figure)[:2] == ["normal  0.50", "cardiomegaly  0.60"]


def test_roc_curves_of_many_classes_are_distinguishable() -> None:
    line = (np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    figure = plots.roc({f"class {i}": line for i in range(14)}, {})
    looks = {(drawn.get_color(), drawn.get_linestyle()) for drawn in figure.axes[0].lines[1:]}
    assert len(looks) == len(legend(figure)) == 14


def test_figures_of_200_classes_have_the_size_of_those_of_18_and_say_so() -> None:
    line, names = (
        (np.array([0.0, 1.0]), np.array([0.0, 1.0])),
        [f"finding {i} of the left lower lobe" for i in range(200)],
    )
    figure, few = (plots.roc(dict.fromkeys(names[:n], line), dict.fromkeys(names, 0.5)) for n in (200, 18))
    assert figure.get_size_inches().tolist() == few.get_size_inches().tolist()
    assert len(legend(figure)) == 18
    assert figure.legends[0].get_title().get_text() == "ROC AUC, first 18 of 200"
    figure.canvas.draw()
    assert figure.axes[0].get_window_extent().height > 2 * figure.dpi  # the legend leaves room for the curves
    matrix = confusion(np.eye(200, dtype=np.int64), names)
    assert texts(matrix) == []
    assert matrix.axes[0].images[0].get_array().tolist() == np.eye(200).tolist()
    assert len(to_svg(matrix, "many", "many classes")) < 100_000


def test_roc_without_a_curve_states_the_reason() -> None:
    assert texts(plots.roc({}, {})) == ["no class has both positive and negative samples"]


def test_confusion_shows_counts_and_shares_of_the_row() -> None:
    figure = confusion(np.array([[3, 1], [0, 0]]), ["a", "b"])
    assert texts(figure) == ["3\n75%", "1\n25%", "0", "0"]
    predictions = make_predictions(passes=0)
    matrix = confusion_matrix(predictions)
    shown = sum(int(text.split("\n")[0]) for text in texts(confusion(matrix, CLASSES)))
    assert shown == len(predictions)


def test_interval_plot_omits_undefined_values() -> None:
    values = {"AUC": [(0.8, 0.7, 0.9), (None, None, None)], "F1": [(0.5, None, None), (0.6, 0.5, 0.7)]}
    estimates = {
        metric: [Estimate(value=value, low=low, high=high) for value, low, high in of_runs]
        for metric, of_runs in values.items()
    }
    axes = plots.interval_plot(estimates, ["a", "b"], [plots.BLUE, plots.GREEN]).axes[0]
    dots = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
    whiskers = [list(line.get_xdata()) for line in axes.lines if line.get_marker() != "o"]
    assert dots == [0.8, 0.5, 0.6]
    assert whiskers == [[0.7, 0.9], [0.5, 0.7]]


def test_histogram_bars_are_shares_of_correct_and_of_incorrect_predictions() -> None:
    uncertainty = np.array([0.0, 0.1, 0.2, 1.0, 1.1])
    correct = np.array([True, True, True, False, False])
    figure = plots.uncertainty_histogram(uncertainty, correct, 0.9)
    sums = [sum(bar.get_height() for bar in bars) for bars in figure.axes[0].containers]
    assert sums == pytest.approx([1, 1])
    assert legend(figure) == [
        "correct predictions (n = 3)",
        "incorrect predictions (n = 2)",
        "most uncertain quarter",
    ]


@pytest.mark.parametrize("uncertainty", [np.zeros(3), np.zeros(0), np.ones(1)])
def test_histogram_accepts_constant_or_missing_uncertainty(uncertainty: np.ndarray) -> None:
    figure = plots.uncertainty_histogram(uncertainty, np.ones(len(uncertainty), dtype=bool), None)
    low, high = figure.axes[0].get_xlim()
    assert low < high


def test_training_curves_share_the_step_axis_and_mark_the_checkpoint() -> None:
    figure = plots.training_curves(([1, 2], [0.9, 0.8]), ([2], [0.7]), 2)
    upper, lower = figure.axes
    assert [list(line.get_ydata()) for line in (upper.lines[0], lower.lines[0])] == [[0.9, 0.8], [0.7]]
    assert {line.get_xdata()[0] for line in (upper.lines[1], lower.lines[1])} == {2}
    assert upper.get_xlim() == lower.get_xlim()


def test_style_does_not_change_global_settings() -> None:
    before = dict(mpl.rcParams)
    to_svg(plots.roc({}, {}), "roc", "a figure")
    assert dict(mpl.rcParams) == before
    code = "import sys, cxr_dist.report.page; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_svg_is_well_formed_themed_and_reproducible() -> None:
    def draw(name: str) -> str:
        figure = confusion(np.array([[3, 1], [0, 2]]), ["<a>", "b & c"])
        return to_svg(figure, name, 'say "so" & <so>')

    svg = draw("one")
    assert svg == draw("one")
    root = ElementTree.fromstring(svg)
    assert root.attrib["aria-label"] == 'say "so" & <so>'
    assert "viewBox" in root.attrib
    assert "width" not in root.attrib
    assert "var(--ink)" in svg
    assert not re.search("|".join((plots.INK, plots.MUTED, plots.GRID_COLOUR, "DejaVu", "<metadata")), svg)
    ids = [set(re.findall(r'\bid="([^"]+)"', text)) for text in (svg, draw("two"))]
    assert ids[0]
    assert not ids[0] & ids[1]
