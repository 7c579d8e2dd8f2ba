"""The table that `cxr-dist compare` prints truncates no number and names the runs that are missing."""

import io
from pathlib import Path

from made_runs import add_external, make_ensemble, make_predictions, make_run, make_runs
from rich.console import Console

from cxr_dist.evaluate.compare import Comparison, compare
from cxr_dist.report.closing_table import print_comparison, repeats_text


def printed(comparison: Comparison) -> str:
    console = Console(file=io.StringIO(), width=80)
    print_comparison(comparison, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_no_number_is_truncated_in_eighty_columns(tmp_path: Path) -> None:
    runs = make_runs(tmp_path, n=60)
    runs.append(make_ensemble(tmp_path / "[ensemble]", make_predictions(n=60, seed=9), seeds=(1, 2, 3)))
    comparison = compare(runs, n_bootstrap=10)
    text = printed(comparison)
    for run in comparison.runs:
        auc = run.estimate("macro", "roc_auc")
        assert f"{auc.value:.3f}" in text
        assert f"{auc.low:.3f}–{auc.high:.3f}" in text
    assert "[ensemble]" in text
    assert "of 3 runs" in text
    assert "…" not in text
    assert "not evaluated" not in text
    said = " ".join(text.split())
    for ablation in comparison.ablations:
        assert ablation.statement in said
    assert "adjusted by Holm's method" in said


def test_missing_kinds_of_run_and_warnings_are_printed(tmp_path: Path) -> None:
    comparison = compare(make_runs(tmp_path, n=60)[2:])
    text = " ".join(printed(comparison).split())
    assert "report only: not evaluated. cxr-dist train enhanced --model.mode text" in text
    assert f"Warning: {comparison.warnings[0]}" in text
    assert "have no clinical meaning" in text


def test_an_unfinished_run_is_marked(tmp_path: Path) -> None:
    text = printed(compare([make_run(tmp_path / "a", make_predictions(n=60), finished=False)], n_bootstrap=10))
    assert "(training unfinished)" in text
    assert "a: training had not finished when this was written: step 240 of" in text


def test_external_evaluations_have_a_table(tmp_path: Path) -> None:
    validation = make_predictions(n=60, passes=0, data=8)
    run = make_run(tmp_path / "a", make_predictions(n=60), validation=validation)
    add_external(run, "elsewhere", make_predictions(n=50, passes=0, data=9), validation)
    comparison = compare([run], n_bootstrap=10)
    text = printed(comparison)
    assert "a on other data" in text
    for each in comparison.generalisation[0].all:
        assert f"{each.auc.value:.3f}" in text
        assert f"{each.scores['slope']:.3f}" in text
    assert comparison.generalisation[0].statements[0] in " ".join(text.split())


def test_the_variation_between_seeds_is_printed(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / n, make_predictions(n=40, seed=i), recipe="r", seed=i) for i, n in enumerate("ab")]
    comparison = compare(runs, n_bootstrap=10)
    text = " ".join(printed(comparison).split())
    assert f"Seeds (a, b): macro ROC AUC {repeats_text(comparison.seeds[0], 'macro', 'roc_auc')}." in text
