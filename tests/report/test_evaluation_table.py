"""`cxr-dist evaluate` prints its five main metrics, with the intervals of metrics.json."""

import io
import json
from pathlib import Path

from made_runs import make_predictions, make_run
from rich.console import Console

from cxr_dist.report.evaluation_table import print_evaluation

FIVE = {
    "ROC AUC, macro": ("macro", "roc_auc"),
    "Average precision, macro": ("macro", "average_precision"),
    "Balanced accuracy": ("balanced_accuracy",),
    "F1, macro": ("macro", "f1"),
    "Accuracy": ("accuracy",),
}


def test_five_metrics_are_printed_with_their_intervals(tmp_path: Path) -> None:
    run = make_run(tmp_path / "enhanced", make_predictions(passes=0), external=None)
    evaluation = json.loads((run / "evaluation" / "test" / "metrics.json").read_text())
    console = Console(file=io.StringIO(), width=80)
    print_evaluation(evaluation, console)
    assert isinstance(console.file, io.StringIO)
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in console.file.getvalue().splitlines()]
    shown = {row[0]: row[1] for row in rows if len(row) == 2}
    assert list(shown) == list(FIVE)
    for name, path in FIVE.items():
        value, interval = evaluation["metrics"], evaluation["intervals"]
        for key in path:
            value, interval = value[key], interval[key]
        assert shown[name] == f"{value:.3f} ({interval['low']:.3f}–{interval['high']:.3f})"
