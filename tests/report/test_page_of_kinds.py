"""The page distinguishes repeated, external, unfinished and averaged runs, and those of a cross-validation."""

from html import escape
from pathlib import Path

import pytest
from browser import needs_chromium, too_wide
from made_folds import make_fold_runs
from made_runs import add_external, make_ensemble, make_predictions, make_run, make_runs

from cxr_dist.evaluate.compare import compare
from cxr_dist.report.page import number, render_page, signed, summary
from cxr_dist.report.provenance import facts_of_runs


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three runs that are finished and differ in more than their seed."""
    return render_page(compare(make_runs(tmp_path_factory.mktemp("runs")), n_bootstrap=20))


def test_the_page_says_that_intervals_lack_the_variation_between_seeds_and_shows_it(tmp_path: Path, page: str) -> None:
    assert "do not contain the variation between seeds: train several to see it" in page
    runs = [
        make_run(tmp_path / name, make_predictions(n=40, seed=i), recipe="r", seed=i) for i, name in enumerate("ab")
    ]
    comparison = compare(runs, n_bootstrap=10)
    page = render_page(comparison)
    (group,) = comparison.seeds
    path = ("macro", "roc_auc")
    each = ", ".join(map(number, group.values(*path)))
    spread = f"{number(group.mean(*path))} ± {number(group.standard_deviation(*path))}<br><small>{each}</small>"
    assert "for which mean ± standard deviation and the value of each run are shown" in page
    assert spread in page


@needs_chromium
def test_external_evaluations_stand_beside_the_own_split(tmp_path: Path) -> None:
    validation, other = make_predictions(n=60, passes=0, data=8), make_predictions(n=50, passes=0, data=9)
    run = make_run(tmp_path / "a", make_predictions(n=60, passes=0), validation=validation)
    add_external(run, "elsewhere", other, validation, notes=["The impression is missing there."])
    comparison = compare([run], n_bootstrap=10)
    page = render_page(comparison)
    (one,) = comparison.generalisation
    assert page.index(escape(one.statements[0])) < page.index('id="results"')
    for each in one.all:
        assert f"<td>{each.name}<br><small>{each.size}</small></td>" in page
        assert f'<td class="value">{number(each.scores["slope"])}</td>' in page
    assert "The impression is missing there." in page
    assert "Shift of the population" in page
    assert too_wide(page, 390, tmp_path) == []


def test_an_unfinished_run_is_marked_in_the_conclusions_and_in_its_row(tmp_path: Path, page: str) -> None:
    assert "unfinished" not in page
    run = make_run(tmp_path / "a", make_predictions(n=40), finished=False)
    marked = render_page(compare([run], n_bootstrap=10))
    assert "<strong>a:</strong> training had not finished when this was written: step 240 of" in marked
    assert '<th scope="row">a<br><small>training unfinished</small></th>' in marked


def test_an_ensemble_is_distinguished_from_a_single_run(tmp_path: Path) -> None:
    single = make_run(tmp_path / "enhanced", make_predictions(n=40))
    ensemble = make_ensemble(tmp_path / "ensemble", make_predictions(n=40, seed=1), seeds=(1, 2, 3))
    comparison = compare([single, ensemble], n_bootstrap=10)
    page = render_page(comparison)
    assert "ensemble (image + report, mean of 3 runs)" in summary(comparison)
    assert page.count("<small>mean of 3 runs</small>") == 1
    assert page.count("<figcaption>Training loss and validation ROC AUC ") == 1  # an ensemble has no training curve
    facts = facts_of_runs(comparison.runs)["ensemble"]
    assert facts["Ensemble of"].startswith("3 runs: enhanced reads the image and the report, seed 1, step 180; ")
    assert (facts["Seed"], facts["Settings below"]) == ("1, 2, 3", "those of the first member")
    assert "Ensemble of" not in facts_of_runs(comparison.runs)["enhanced"]


@needs_chromium
def test_a_cross_validation_has_pooled_metrics_each_fold_and_paired_differences(tmp_path: Path) -> None:
    runs = make_fold_runs(tmp_path, make_predictions(n=60, passes=0), name="a-fold", recipe="a")
    runs += make_fold_runs(tmp_path, make_predictions(n=60, passes=0, seed=5), name="b-fold", recipe="b", loss="focal")
    comparison = compare(runs, n_bootstrap=10)
    page = render_page(comparison)
    path = ("macro", "roc_auc")
    for row, group in zip(comparison.rows, comparison.repeats, strict=True):
        assert f'<th scope="row">{row.name}</th>' in page
        assert row.name == group.name
        assert number(row.value(*path)) in page
        assert f"{number(group.mean(*path))} ± {number(group.standard_deviation(*path))}" in page
        assert all(f'<th scope="row">{run.name}</th>' in page for run in group.runs)
    (pairs,) = comparison.repeated_differences
    assert f"{signed(pairs.difference(*path).mean)} ± " in page
    assert page.index("Cross-validation: mean") < page.index('id="figures-title"')
    assert "the predictions of all test folds were pooled" in page
    assert too_wide(page, 390, tmp_path) == []
