"""The table that `cxr-dist compare` prints in a terminal: the metrics of a comparison without the page's figures."""

from rich.console import Console
from rich.table import Table

from cxr_dist.evaluate.compare import HEADLINE, MODE_NAMES, P_VALUES, Comparison
from cxr_dist.evaluate.generalisation import Generalisation
from cxr_dist.evaluate.repeats import ComparisonRow, PairedRepeats, RepeatedRuns
from cxr_dist.evaluate.run_result import Estimate, RunResult
from cxr_dist.format.escape import terminal_text
from cxr_dist.report.audits import conclusions, controls_reach
from cxr_dist.report.figures import METRIC_NAMES

_CALIBRATION = {
    "slope": "Calibration slope",
    "intercept": "Calibration intercept",
    "ece": "Expected calibration error",
    "log_loss": METRIC_NAMES["log_loss"],
}


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print one column for each run, what each input adds, the kinds of run that are missing, and the warnings."""
    console.print(_table(comparison))
    for ablation in comparison.ablations:
        console.print(terminal_text(ablation.statement))
    if comparison.ablations:
        console.print(terminal_text(f"{P_VALUES[0].upper()}{P_VALUES[1:]}."))
    if comparison.controls.rows:
        console.print(terminal_text(controls_reach(comparison.controls)))
    if comparison.controls.reason:
        console.print(terminal_text(f"Controls are missing: {comparison.controls.reason}."))
    for statement in conclusions(comparison.runs):
        console.print(terminal_text(statement))
    for one in comparison.generalisation:
        console.print(_external(one))
        for statement in one.statements:
            console.print(terminal_text(statement))
    for group in comparison.repeats:
        console.print(terminal_text(f"{_called(group)}: macro ROC AUC {repeats_text(group, 'macro', 'roc_auc')}."))
    for pairs in comparison.repeated_differences:
        console.print(terminal_text(difference_text(pairs)))
    for run in comparison.runs:
        if run.unfinished:
            console.print(
                terminal_text(f"{run.name}: training had not finished when this was written: {run.unfinished}.")
            )
    for mode, command in comparison.not_evaluated.items():
        console.print(terminal_text(f"{MODE_NAMES[mode]}: not evaluated. {command}"))
    for warning in comparison.warnings:
        console.print(terminal_text(f"Warning: {warning}"))
    if comparison.made_data:
        console.print("The images and reports are synthetic: these results have no clinical meaning.")


def _table(comparison: Comparison) -> Table:
    rows, first = comparison.rows, comparison.runs[0].metrics
    title = f"{first['n']} {comparison.split} images of {first['patients']} patients"
    if any(row.run is not None for row in rows):
        title += ", with 95% confidence intervals"
    table = Table(title=title, title_justify="left", show_lines=True)
    table.add_column("")
    for row in rows:
        # Folded, because a truncated number is wrong.
        name = row.name + "\n(training unfinished)" * any(run.unfinished for run in row.runs)
        table.add_column(terminal_text(name), justify="right", overflow="fold")
    table.add_row("Input", *map(_input, rows))
    for name, path in HEADLINE.items():
        table.add_row(METRIC_NAMES[name], *(_result(row, *path) for row in rows))
    return table


def _input(row: ComparisonRow) -> str:
    return input_of(row.first) + (f", {row.repeats.repeated}" if row.repeats is not None else "")


def _result(row: ComparisonRow, *path: str) -> str:
    """The value with its interval; for repeated runs, the mean, the standard deviation and each value."""
    if row.run is not None:
        return _cell(row.run.estimate(*path))
    assert row.repeats is not None
    mean, deviation = row.repeats.mean(*path), row.repeats.standard_deviation(*path)
    return f"{_number(mean)} ± {_number(deviation)}\n{', '.join(map(_number, row.repeats.values(*path)))}"


def _external(one: Generalisation) -> Table:
    """The run on its own split and on other data, one column for each."""
    table = Table(title=terminal_text(f"{one.own.run} on other data"), title_justify="left", show_lines=True)
    table.add_column("")
    for each in one.all:
        table.add_column(terminal_text(each.name), justify="right", overflow="fold")
    table.add_row("Images (patients)", *(f"{each.population['n']} ({each.population['patients']})" for each in one.all))
    table.add_row(METRIC_NAMES["macro_roc_auc"], *(_cell(each.auc) for each in one.all))
    table.add_row("Classes", *(f"{len(each.evaluated_classes)} of {len(each.predictions.classes)}" for each in one.all))
    table.add_row("Probabilities", *(terminal_text(each.calibrated) for each in one.all))
    for key, name in _CALIBRATION.items():
        table.add_row(name, *(_number(each.scores[key]) for each in one.all))
    for metric, name in (("recall", "Sensitivity at thresholds"), ("specificity", "Specificity at thresholds")):
        table.add_row(name, *(_number(each.at_thresholds(metric, one.common_points)) for each in one.all))
    return table


def input_of(run: RunResult) -> str:
    """What the model reads, such as `image + report`, and for an ensemble the number of runs."""
    several = f", mean of {len(run.members)} runs" if len(run.members) > 1 else ""
    return MODE_NAMES[run.mode] + several


def repeats_text(group: RepeatedRuns, *path: str) -> str:
    """`mean 0.801, standard deviation 0.012 (0.790, 0.812)`, with the value of each run in brackets."""
    each = ", ".join(map(_number, group.values(*path)))
    return f"mean {_number(group.mean(*path))}, standard deviation {_number(group.standard_deviation(*path))} ({each})"


def difference_text(pairs: PairedRepeats) -> str:
    """A sentence with the difference in macro ROC AUC of two repeated configurations, and that of each pair."""
    found = pairs.difference("macro", "roc_auc")
    values = ", ".join(map(_signed, found.values))
    test = "" if found.p is None else f", {_signed(found.low)} to {_signed(found.high)}, p = {found.p:.2g}"
    return (
        f"{_called(pairs.group)} minus {_called(pairs.other)}, paired by {pairs.paired_by}: macro ROC AUC "
        f"{_signed(found.mean)} (standard deviation {_number(found.standard_deviation)}{test}; {values})."
    )


def _called(group: RepeatedRuns) -> str:
    """The name of the repeated runs, such as `cv (5 folds)`; `Seeds (a, b)` if their names have nothing in common."""
    kind = group.repeated.partition(" ")[2].capitalize()
    return group.name if group.repeated in group.name else f"{kind} ({group.name})"


def _signed(value: float | None) -> str:
    return "not defined" if value is None else f"{value:+.3f}".replace("-", "−")


def _number(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"


def _cell(estimate: Estimate) -> str:
    if estimate.value is None:
        return "not defined"
    return f"{estimate.value:.3f}" + ("" if estimate.low is None else f"\n{estimate.low:.3f}–{estimate.high:.3f}")
