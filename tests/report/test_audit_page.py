"""The page and the terminal say what each audited run uses, first in words, then in a folded table."""

import dataclasses
import io
import json
from html import escape
from pathlib import Path

import pytest
from browser import bottom_of, needs_chromium, too_wide
from made_folds import make_fold_runs
from made_runs import CLASSES, RUNS, make_predictions, make_run, swapped_of
from rich.console import Console

from cxr_dist.evaluate.audit import audit
from cxr_dist.evaluate.compare import Comparison, compare
from cxr_dist.evaluate.controls import Control, Controls
from cxr_dist.evaluate.metrics import strict_json
from cxr_dist.evaluate.predictions import Predictions
from cxr_dist.report.closing_table import print_comparison
from cxr_dist.report.page import render_page, signed

USED = {"image": {"image": 1.0}, "text": {"report": 1.0}, "fused": {"image": 0.0, "report": 0.9}}


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    folder, runs = tmp_path_factory.mktemp("runs"), []
    for i, (mode, used) in enumerate(USED.items()):
        own = make_predictions(task="multilabel", skill=2.5, seed=i, classes=CLASSES[:4], n=90)
        block = audit(own, swapped_of(own, used), n_bootstrap=50)
        runs.append(make_run(folder / f"reads-{mode}", own, mode=mode, audit=block))
    return compare(runs, n_bootstrap=50)


def test_the_fused_run_has_its_statement_among_the_conclusions(comparison: Comparison) -> None:
    page = render_page(comparison)
    head = page[: page.index("<main>")]
    assert "reads-fused: swapping reports with those of other labels costs" in head
    assert "the model uses the report; no use of the image is shown." in head
    assert "reads-text: swapping" not in head
    assert escape(comparison.runs[1].evaluation["audit"]["statement"]) in page


def test_the_table_is_folded_and_has_each_swap_and_metric_with_its_interval(comparison: Comparison) -> None:
    page = render_page(comparison)
    section = page[page.index('<section class="fold" aria-labelledby="audit-title"><details>') :]
    section = section[: section.index("</section>")]
    assert section.count("<tr>") == 1 + 2 + 2 + 4
    for run in comparison.runs:
        for modality in USED[run.mode]:
            for swap in run.evaluation["audit"][modality].values():
                row = swap["metrics"]["macro_roc_auc"]
                assert f"{signed(row['fall'])}<br><small>{signed(row['low'])} to {signed(row['high'])}" in section
    alone = comparison.runs[0].evaluation["audit"]["image"]["same_label"]["without_donor"]
    assert alone["n"] > 0
    assert section.count(f"{alone['n']} samples of {alone['patients']} patients are left out") == 1


@needs_chromium
def test_the_main_table_ends_within_the_first_screen_with_audits_and_controls(tmp_path: Path) -> None:
    runs = []
    for i, (name, (mode, skill)) in enumerate(RUNS.items()):
        own = make_predictions(skill=skill, seed=i)
        block = audit(own, swapped_of(own, USED[mode]), n_bootstrap=50)
        runs.append(make_run(tmp_path / name, own, mode=mode, audit=block))
    comparison = compare(runs, n_bootstrap=50)
    evaluation = comparison.runs[0].evaluation
    rows = [
        Control(features=features, trained_on=700, evaluation=evaluation)
        for features in ("view, age and sex", "thumbnails of 16×16 pixels")
    ]
    page = render_page(dataclasses.replace(comparison, controls=Controls(rows=tuple(rows))))
    assert page.count('<tr class="control">') == 2
    assert bottom_of(page, ".scroll", 1280, tmp_path) <= 800
    assert bottom_of(page, ".conclusions", 390, tmp_path) <= 844
    assert too_wide(page, 390, tmp_path) == []


def test_runs_without_an_audit_have_no_section(tmp_path: Path) -> None:
    page = render_page(compare([make_run(tmp_path / "run", make_predictions(n=30, passes=0))], n_bootstrap=10))
    assert "audit" not in page


def test_the_folds_of_a_cross_validation_have_their_audits_and_one_conclusion(tmp_path: Path) -> None:
    runs = make_fold_runs(tmp_path, make_predictions(n=150, passes=0, skill=3.0))
    for run, used in zip(runs, (0.95, 0.95, 0.0), strict=True):
        path = run / "evaluation" / "test" / "metrics.json"
        own = Predictions.read_csv(path.parent / "predictions.csv")
        block = audit(own, swapped_of(own, {"image": 0.0, "report": used}), n_bootstrap=30)
        path.write_text(strict_json(json.loads(path.read_text()) | {"audit": block}))
    comparison = compare(runs, n_bootstrap=10)
    page = render_page(comparison)
    said = "shown to cost macro ROC AUC in 2 of 3 audited folds, swapping images in 0."
    assert said in page[: page.index("<main>")]
    for run in comparison.runs[0].folds:
        assert f"<p><strong>{run.name}.</strong> {escape(run.evaluation['audit']['statement'])}</p>" in page
    console = Console(file=io.StringIO(), width=400)
    print_comparison(comparison, console)
    assert (
        f"{comparison.runs[0].name}: swapping reports with those of other labels is {said}" in console.file.getvalue()
    )


def test_the_terminal_and_the_record_have_the_audit(comparison: Comparison) -> None:
    console = Console(file=io.StringIO(), width=400)
    print_comparison(comparison, console)
    assert "reads-fused: swapping reports" in console.file.getvalue()
    assert comparison.to_dict()["runs"][2]["audit"] == comparison.runs[2].evaluation["audit"]
