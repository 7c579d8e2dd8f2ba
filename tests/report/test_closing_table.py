"""The table that `cxr-dist compare` prints: every number whole, and what is absent named."""

import io
from pathlib import Path

from made_runs import make_ensemble, make_predictions, make_runs
from rich.console import Console

from cxr_dist.evaluate.compare import Comparison, compare
from cxr_dist.report.closing_table import print_comparison


def printed(comparison: Comparison) -> str:
    console = Console(file=io.StringIO(), width=80)
    print_comparison(comparison, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_no_number_is_cut_in_eighty_columns(tmp_path: Path) -> None:
    runs = make_runs(tmp_path, n=60)
    runs.append(make_ensemble(tmp_path / "[ensemble]", make_predictions(n=60, seed=9), seeds=(1, 2, 3)))
    comparison = compare(runs, n_bootstrap=10)
    text = printed(comparison)
    for run in comparison.runs:
        found = run.estimate("macro", "roc_auc")
        assert f"{found.value:.3f}" in text
        assert f"{found.low:.3f}–{found.high:.3f}" in text
    assert "[ensemble]" in text
    assert "of 3 runs" in text
    assert "…" not in text
    assert "not evaluated" not in text


def test_absent_kinds_and_warnings_are_said(tmp_path: Path) -> None:
    comparison = compare(make_runs(tmp_path, n=60)[2:])
    text = " ".join(printed(comparison).split())
    assert "report only: not evaluated. cxr-dist train enhanced --model.mode text" in text
    assert f"Mind: {comparison.warnings[0]}" in text
    assert "mean nothing clinical" in text
