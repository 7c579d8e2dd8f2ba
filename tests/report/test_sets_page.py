"""The page has the recorded prediction sets under a heading of their own, folded."""

from pathlib import Path

import pytest
from made_runs import make_predictions, make_run, make_runs

from cxr_dist.evaluate.compare import compare
from cxr_dist.report.page import number, render_page
from cxr_dist.report.prediction_sets import set_statement


def section_of(page: str) -> str:
    start = page.index('<section class="fold" aria-labelledby="sets-title"><details>')
    return page[start : page.index("</section>", start)]


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_coverage_size_and_thresholds_of_each_run_are_shown(tmp_path: Path, task: str) -> None:
    comparison = compare(make_runs(tmp_path, task=task, n=80, passes=0), n_bootstrap=10)
    section = section_of(render_page(comparison))
    for run, record in zip(comparison.runs, comparison.to_dict()["runs"], strict=True):
        block = record["conformal"]
        assert set_statement(run.evaluation) in section
        for each in block["per_outcome"].values():
            threshold = "none" if each["threshold"] is None else number(each["threshold"])
            assert f"{threshold} ({each['n']})" in section
            assert number(each["coverage"]["value"]) in section
        for group in block["subgroups"]["view"].values():
            assert number(group["mean_size"]["value"]) in section
    assert ("present" in section) == (task == "multilabel")
    share = comparison.runs[0].evaluation["conformal"]["coverage"]["value"]
    assert f"Prediction sets (90%): {100 * share:.1f}%" in section


def test_a_run_without_sets_has_no_section(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", make_predictions(n=30, passes=0))
    assert "Prediction sets" not in render_page(compare([run], n_bootstrap=10))
