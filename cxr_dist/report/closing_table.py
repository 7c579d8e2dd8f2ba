"""A comparison in, the closing table of `cxr-dist compare` out: for a terminal, without the page's figures."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cxr_dist.evaluate.compare import HEADLINE, MODE_NAMES, Comparison
from cxr_dist.evaluate.run_result import Estimate, RunResult
from cxr_dist.report.figures import METRIC_NAMES


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print a column per run, the kinds of run that were not evaluated, and what a reader must know."""
    console.print(_table(comparison))
    for mode, command in comparison.not_evaluated.items():
        console.print(Text(f"{MODE_NAMES[mode]}: not evaluated. {command}"))
    for warning in comparison.warnings:
        console.print(Text(f"Mind: {warning}"))
    if comparison.made_data:
        console.print("The films and reports are made by a program: these results mean nothing clinical.")


def _table(comparison: Comparison) -> Table:
    runs, first = comparison.runs, comparison.runs[0].metrics
    title = f"{first['n']} {comparison.split} images of {first['patients']} patients, with 95% intervals"
    table = Table(title=title, title_justify="left", show_lines=True)
    table.add_column("")
    for run in runs:
        # Text, because a name in [brackets] is markup otherwise; folded, because a cut number is a wrong one.
        table.add_column(Text(run.name), justify="right", overflow="fold")
    table.add_row("Sees", *map(sees, runs))
    for name, path in HEADLINE.items():
        table.add_row(METRIC_NAMES[name], *(_cell(run.estimate(*path)) for run in runs))
    return table


def sees(run: RunResult) -> str:
    """`image + report`, and of how many runs it is the mean."""
    several = f", mean of {len(run.members)} runs" if len(run.members) > 1 else ""
    return MODE_NAMES[run.mode] + several


def _cell(found: Estimate) -> str:
    if found.value is None:
        return "not defined"
    return f"{found.value:.3f}" + ("" if found.low is None else f"\n{found.low:.3f}–{found.high:.3f}")
