"""The page shows the scores of explanations against boxes, in words and in a folded table with every interval."""

import io
from html import escape
from pathlib import Path

import pytest
from browser import needs_chromium, too_wide
from made_boxes import made_scores
from made_runs import CLASSES, make_predictions, make_run
from rich.console import Console

from cxr_dist.evaluate.box_summary import explanations
from cxr_dist.evaluate.compare import Comparison, compare
from cxr_dist.report.evaluation_table import print_evaluation
from cxr_dist.report.page import number, render_page


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """Two runs, of which one was scored against boxes."""
    folder, own = tmp_path_factory.mktemp("runs"), make_predictions(task="multilabel", classes=CLASSES[:3], n=60)
    block = explanations(*made_scores(), CLASSES[:3], 64)
    scored = make_run(folder / "scored", own, mode="image", explanations=block, external=None)
    return compare([scored, make_run(folder / "other", own, mode="fused")], n_bootstrap=20)


def section_of(page: str) -> str:
    start = page.index('<section class="fold" aria-labelledby="explained-title"><details>')
    return page[start : page.index("</section>", start)]


def test_each_score_stands_in_the_folded_table_with_its_interval(comparison: Comparison) -> None:
    block, section = comparison.runs[0].evaluation["explanations"], section_of(render_page(comparison))
    assert escape(block["statement"]) in section
    assert "attention" not in section
    for scores in (block["all"], *block["per_class"].values()):
        assert f"{scores['findings']} ({scores['patients']})" in section
        for name in ("grad_cam", "centred_gaussian", "random"):
            for measure in ("hit_rate", "energy_inside"):
                one = scores["maps"][name][measure]
                assert f"{number(one['value'])}<br><small>{one['low']:.3f}–{one['high']:.3f}</small>" in section
    assert f"Classes without boxes in this split: {CLASSES[2]}." in section
    assert "at most 3% of the image’s side away" in section


def test_the_record_and_the_terminal_have_the_scores(comparison: Comparison) -> None:
    scored = comparison.runs[0].evaluation
    runs = comparison.to_dict()["runs"]
    assert [run["explanations"] for run in runs] == [scored["explanations"], None]
    console = Console(file=io.StringIO(), width=1000)
    print_evaluation(scored, console)
    assert f"Explanations: {scored['explanations']['statement']}" in console.file.getvalue()


def test_runs_without_scores_have_no_section(comparison: Comparison, tmp_path: Path) -> None:
    page = render_page(compare([make_run(tmp_path / "run", make_predictions(n=30, passes=0))], n_bootstrap=10))
    assert "explained" not in page


@needs_chromium
def test_nothing_is_wider_than_a_telephone(comparison: Comparison, tmp_path: Path) -> None:
    page = render_page(comparison).replace("<details>", "<details open>")
    assert too_wide(page, 375, tmp_path) == []
