"""The figure of a case shows the given numbers and words, and no words overlap."""

import dataclasses
import itertools
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cxr_dist.evaluate.word_scores import WordScores
from cxr_dist.report.prediction_figure import CaseView, explanation
from cxr_dist.report.words import drawable, flow, lines_needed, measured

WORDS = ["Heart", "costs", "$5", "and", "$6", "中文", "x" * 300, "effusion", "."] * 20


def make_report(words: list[str] = WORDS, **changes: Any) -> WordScores:
    scores = np.linspace(-1, 2, len(words))
    given = {"words": words, "attention": scores + 1, "gradient_times_input": scores, "cut": 0}
    return WordScores(**(given | changes))


def make_case(classes: int = 2, **changes: Any) -> CaseView:
    probabilities = np.linspace(0.2, 0.8, classes)
    given = {
        "image": np.full((48, 48), 90, dtype=np.uint8),
        "heat": np.eye(4),
        "probabilities": probabilities,
        "interval": np.stack([probabilities - 0.1, probabilities + 0.1]),
        "classes": [f"class {i}" for i in range(classes)],
        "kind": "calibrated probability",
        "explained": "class 1",
        "predicted": ["class 1"],
        "rule": "the most probable class",
        "thresholds": None,
        "report": None,
    }
    return CaseView(**(given | changes))


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_the_image_is_shown_with_and_without_the_heat_map_beside_the_probabilities() -> None:
    image, overlay, bars = explanation(make_case()).axes
    assert np.array_equal(image.images[0].get_array(), np.full((48, 48), 90))
    heat = overlay.images[1]
    assert heat.get_extent() == [
        -0.5,
        47.5,
        47.5,
        -0.5,
    ]  # the heat map covers the whole image at any resolution
    assert np.array_equal(heat.get_array(), np.eye(4))
    assert overlay.get_title(loc="left") == "Grad-CAM heat map for class 1"
    assert [bar.get_width() for bar in bars.patches] == [0.2, 0.8]
    assert [text.get_text() for text in bars.texts] == ["20%", "80%"]
    assert [label.get_fontweight() for label in bars.get_yticklabels()] == ["normal", "bold"]


def test_the_figure_omits_a_missing_image_interval_or_report() -> None:
    (bars,) = explanation(make_case(image=None, heat=None, interval=None)).axes
    assert bars.get_title(loc="left") == "Calibrated probability"
    assert texts(explanation(make_case(report=make_report([])))).count("no report was given") == 2
    assert "the fusion of this model does not use the report" in texts(
        explanation(make_case(report=make_report(attention=None)))
    )


def test_the_predicted_classes_their_rule_and_warnings_stand_above_everything() -> None:
    figure = explanation(make_case(warnings=["no report was given"]))
    assert [text.get_text() for text in figure.texts[:3]] == [
        "Predicted: class 1 (80%)",
        "By calibrated probability: the most probable class.",
        "Warning: no report was given.",
    ]
    none = make_case(3, predicted=[], thresholds={"class 0": 0.3, "class 1": 0.9, "class 2": 0.99})
    figure = explanation(none)
    assert figure.texts[0].get_text() == "Predicted: none of the 3 classes"
    marks = figure.axes[2].collections[-1].get_segments()
    assert [segment[0][0] for segment in marks] == [0.3, 0.9, 0.99]
    assert "dashed: the threshold of the class" in figure.axes[2].get_xlabel()


def test_a_heat_map_of_zeros_is_transparent_and_labelled() -> None:
    overlay = explanation(make_case(heat=np.zeros((4, 4)))).axes[1]
    assert np.asarray(overlay.images[1].get_alpha()).max() == 0
    assert [text.get_text() for text in overlay.texts] == ["no region supports this class"]


def test_the_words_of_the_report_are_shown_unchanged_in_both_columns() -> None:
    words = ["Heart", "costs", "$5", "and", "$6"]
    shown = texts(explanation(make_case(report=make_report(words, cut=3))))
    for word in words:
        assert shown.count(word) == 2
    assert "3 further words were truncated and not read by the model" in shown
    assert "200.0%" not in shown


def test_background_colours_follow_the_scores() -> None:
    scores = np.array([-1.0, 0.0, 0.5])
    case = make_case(image=None, heat=None, report=make_report(["no", "the", "effusion"], gradient_times_input=scores))
    _, attention, gradient, *_ = explanation(case).axes
    against, neutral, weak = (patch.get_facecolor() for patch in gradient.patches)
    assert against[2] > against[0]  # blue
    assert weak[0] > weak[2]  # red
    assert min(neutral[:3]) > 0.98
    depth = [sum(patch.get_facecolor()[:3]) for patch in attention.patches]
    assert depth == sorted(depth, reverse=True)  # darker with more attention


def overlap(a: Any, b: Any) -> bool:
    return bool(a.x0 < b.x1 and b.x0 < a.x1 and a.y0 < b.y1 and b.y0 < a.y1)


def test_a_long_report_does_not_overlap_exceed_the_figure_or_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning of matplotlib would quote characters of the report
        classes = [f"class {i}" for i in range(14)]
        case = make_case(14, report=make_report(cut=1), warnings=["no report. " * 20], predicted=classes[:9])
        figure = explanation(dataclasses.replace(case, thresholds=dict.fromkeys(classes, 0.45)))
        renderer = FigureCanvasAgg(figure).get_renderer()
        figure.draw(renderer)
    drawn = [text for axes in figure.axes for text in axes.texts if text.get_text()]
    boxes = [text.get_window_extent(renderer) for text in [*drawn, *figure.texts]]
    assert len(boxes) > 2 * len(WORDS)
    assert not [1 for a, b in itertools.combinations(boxes, 2) if overlap(a, b)]
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.width for box in boxes)
    assert all(box.y0 >= 0 and box.y1 <= figure.bbox.height for box in boxes)


@given(st.lists(st.floats(0.5, 100), max_size=60), st.floats(100, 400))
def test_wrapped_words_keep_their_order_distance_and_margin(widths: list[float], limit: float) -> None:
    places = flow(widths, limit, gap=5)
    assert len(places) == len(widths)
    for (x, _), width in zip(places, widths, strict=True):
        assert x >= 0
        assert x + width <= limit
    for i, (x, line) in enumerate(places[1:]):
        end = places[i][0] + widths[i]
        same_line = line == places[i][1] and x == pytest.approx(end + 5)
        assert same_line or (line == places[i][1] + 1 and x == 0)


@given(st.text(min_size=1, max_size=80))
def test_every_word_fits_its_column(word: str) -> None:
    assert measured(drawable(word, 60)) <= 60


def test_the_number_of_lines_is_known_before_drawing() -> None:
    assert lines_needed([], 100) == 0
    assert lines_needed(["x" * 300] * 3, 100) == 3
