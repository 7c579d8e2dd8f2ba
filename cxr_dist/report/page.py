"""Write a comparison as report.html: one self-contained page with inline figures, without scripts or network access.

The page contains numbers, the names of runs and classes, and the settings of the runs. It contains keys, images and
report text only if examples are given: it then says so, and only its owner may read the file. The template escapes
every value, control characters too. The same comparison gives the same bytes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cxr_dist.errors import printable
from cxr_dist.evaluate.ablation import interval_text
from cxr_dist.evaluate.box_summary import MAP_TITLES
from cxr_dist.evaluate.compare import HEADLINE, LOWER_IS_BETTER, MODE_NAMES, P_VALUES, Comparison
from cxr_dist.evaluate.generalisation import population_shift, populations
from cxr_dist.evaluate.paired import p_text
from cxr_dist.evaluate.repeats import ComparisonRow
from cxr_dist.evaluate.retrieval import CUTS
from cxr_dist.evaluate.subgroups import FEW
from cxr_dist.files import whole_file
from cxr_dist.report import figures
from cxr_dist.report.audits import audited_runs, conclusions, explained_runs, without_donor
from cxr_dist.report.closing_table import input_of
from cxr_dist.report.data_flow import data_flow
from cxr_dist.report.downloads import csv_link, svg_link
from cxr_dist.report.examples import RunExamples
from cxr_dist.report.figures import METRIC_NAMES
from cxr_dist.report.methods import dropout_place, methods
from cxr_dist.report.prediction_sets import set_statement
from cxr_dist.report.provenance import data_facts, facts_of_runs, leakage_statements

CLASS_COLUMNS = {
    "average_precision": "Average precision",
    "recall": "Sensitivity",
    "specificity": "Specificity",
    "precision": "Precision",
    "f1": "F1",
    "brier": "Brier",
}
POINT_COLUMNS = {
    "recall": "Sensitivity",
    "specificity": "Specificity",
    "precision": "Precision (PPV)",
    "negative_predictive_value": "NPV",
}
_PATIENT_DATA = (
    "This page shows images and report text of individual cases. Store, share and delete it under the same rules as "
    "the shards. A page written without --with-examples contains no such data."
)
_SYNTHETIC_CASES = (
    "This page shows images and reports of individual synthetic cases. With real data, it would contain patient data "
    "and would have to be handled like the shards."
)


def write_page(comparison: Comparison, out: Path, examples: Sequence[RunExamples] = ()) -> None:
    """Write the page to the file `out`, completely or not at all; with examples, readable by its owner only (0600)."""
    with whole_file(out, mode=0o600 if examples else 0o644) as file:
        file.write(render_page(comparison, examples).encode("utf-8"))


def render_page(comparison: Comparison, examples: Sequence[RunExamples] = ()) -> str:
    """Return the page as HTML; `examples` is empty or has one entry for each run."""
    assert len(examples) in (0, len(comparison.runs))
    environment = Environment(
        loader=PackageLoader("cxr_dist", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    for function in (number, signed, p_text, undefined_reasons, dropout_place, set_statement, csv_link, svg_link):
        environment.filters[function.__name__] = function
    manifest = next((run.manifest for run in comparison.runs if run.manifest is not None), None)
    columns = populations(comparison.generalisation)
    return environment.get_template("report.html.j2").render(
        comparison=comparison,
        first=comparison.runs[0].metrics,
        mode_names=MODE_NAMES,
        metric_names=METRIC_NAMES,
        class_columns=CLASS_COLUMNS,
        point_columns=POINT_COLUMNS,
        headline=HEADLINE,
        compared=HEADLINE | LOWER_IS_BETTER,
        p_values=P_VALUES,
        few=FEW,
        populations=columns,
        shift=population_shift(columns),
        audited=audited_runs(comparison.runs),
        explained=explained_runs(comparison.runs),
        retrieving=[model for run in comparison.runs for model in run.models if "retrieval" in model.evaluation],
        cuts=CUTS,
        map_titles=MAP_TITLES,
        audits=conclusions(comparison.runs),
        with_sets=[run for run in comparison.runs if run.evaluation.get("conformal")],
        without_donor=without_donor(comparison.runs),
        best=_best_per_metric(comparison),
        summary=summary(comparison),
        statements=leakage_statements(comparison),
        flow=None if manifest is None else data_flow(manifest),
        methods=methods(comparison),
        examples=examples,
        examples_warning=_SYNTHETIC_CASES if comparison.made_data else _PATIENT_DATA,
        longest_report=max(
            (run.config.data.max_tokens for run in comparison.runs if run.mode != "image"), default=None
        ),
        facts={"Data": data_facts(comparison)} | facts_of_runs(comparison.runs),
        **_figures(comparison),
    )


def _figures(comparison: Comparison) -> dict[str, Any]:
    runs, colours = comparison.runs, figures.colours_of(comparison.runs)
    curves = [figures.curves_of(run) for run in runs]
    return {
        "overview": figures.overview(comparison),
        "together": figures.comparison_figures(comparison, curves),
        "forests": figures.forests(comparison),
        "figures": [
            figures.run_figures(run, of_run, colour, str(i))
            for i, (run, of_run, colour) in enumerate(zip(runs, curves, colours, strict=True))
        ],
    }


def _printable(value: Any) -> Any:
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def number(value: float | None) -> str:
    """Format a value with three decimals, or `not defined`."""
    return "not defined" if value is None else f"{value:.3f}".replace("-", "−")


def signed(value: float | None) -> str:
    """Format a difference with three decimals and a sign (a true minus), or `not defined`."""
    return "not defined" if value is None else f"{value:+.3f}".replace("-", "−")


def summary(comparison: Comparison) -> str:
    """State in one sentence the macro ROC AUC of each run with its interval, fused runs first, and the sample size.

    Repeated runs have a mean with a standard deviation.
    """
    order = sorted(comparison.rows, key=lambda row: ("fused", "image", "text").index(row.first.mode))
    first = comparison.runs[0].metrics
    size = f"{first['n']} {comparison.split} images of {first['patients']} patients"
    intervals = ", with 95% confidence intervals" if any(row.run is not None for row in order) else ""
    return f"Macro ROC AUC on {size}{intervals}: " + "; ".join(map(_summary_of, order)) + "."


def _summary_of(row: ComparisonRow) -> str:
    run, group = row.run, row.repeats
    if run is None and group is not None:
        mean, deviation = number(group.mean("macro", "roc_auc")), number(group.standard_deviation("macro", "roc_auc"))
        return f"{group.name} ({input_of(row.first)}) mean {mean}, standard deviation {deviation} over {group.repeated}"
    run = row.first
    auc = run.estimate("macro", "roc_auc")
    return f"{run.name} ({input_of(run)}) {interval_text(auc) if auc.low is not None else number(auc.value)}"


def _best_per_metric(comparison: Comparison) -> dict[str, float | None]:
    """Metric -> the highest value among the rows; None if fewer than two values are defined."""
    best: dict[str, float | None] = {}
    for name, path in HEADLINE.items():
        values = [row.value(*path) for row in comparison.rows]
        known = [value for value in values if value is not None]
        best[name] = max(known) if len(known) > 1 else None
    return best


def undefined_reasons(metrics: Mapping[str, Any]) -> list[str]:
    """List the undefined metrics for the footnotes of a run, one line for each class and reason."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for path, reason in metrics["undefined"].items():
        *owner, name = path.split("/")
        grouped.setdefault(("/".join(owner[1:]) or "overall", reason), []).append(name.replace("_", " "))
    return [f"{', '.join(names)} ({owner}): {reason}" for (owner, reason), names in grouped.items()]
