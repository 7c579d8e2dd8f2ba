"""A comparison in, report.html out: one self-contained page, with inline figures, no script and no network.

The page holds numbers, names of runs and classes, and how the runs were made; never keys, patients or report
text. The template escapes every value. The same comparison gives the same bytes.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from cxr_dist.evaluate.compare import HEADLINE, LOSSES, MODE_NAMES, Comparison
from cxr_dist.evaluate.run_result import RunResult
from cxr_dist.files import write_whole
from cxr_dist.report import figures
from cxr_dist.report.data_flow import data_flow
from cxr_dist.report.figures import METRIC_NAMES
from cxr_dist.report.methods import methods
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


def write_page(comparison: Comparison, out: Path) -> None:
    """Write report.html to the file `out`, whole or not at all."""
    write_whole(out, render_page(comparison))


def render_page(comparison: Comparison) -> str:
    """The page as one HTML text."""
    environment = Environment(
        loader=PackageLoader("cxr_dist", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "signed": signed,
        "p_value": p_value,
        "undefined_reasons": undefined_reasons,
    }
    manifest = next((run.manifest for run in comparison.runs if run.manifest is not None), None)
    return environment.get_template("report.html.j2").render(
        comparison=comparison,
        first=comparison.runs[0].metrics,
        mode_names=MODE_NAMES,
        metric_names=METRIC_NAMES,
        class_columns=CLASS_COLUMNS,
        point_columns=POINT_COLUMNS,
        headline=HEADLINE,
        compared=HEADLINE | LOSSES,
        best=_best_per_metric(comparison),
        summary=summary(comparison),
        statements=leakage_statements(comparison),
        flow=None if manifest is None else data_flow(manifest),
        methods=methods(comparison),
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
            figures.run_figures(run, found, colour, str(i))
            for i, (run, found, colour) in enumerate(zip(runs, curves, colours, strict=True))
        ],
    }


def number(value: float | None) -> str:
    """Three decimals, or that there is none."""
    return "not defined" if value is None else f"{value:.3f}"


def signed(value: float | None) -> str:
    """Three decimals with a sign (a true minus), or that there is none."""
    return "not defined" if value is None else f"{value:+.3f}".replace("-", "−")


def p_value(p: float | None) -> str:
    """`p = 0.034`, or `p < 0.001`."""
    if p is None:
        return "p not defined"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def summary(comparison: Comparison) -> str:
    """One sentence: the macro ROC AUC of each run, fused ones first, with its interval and the sample's size."""
    order = sorted(comparison.runs, key=lambda run: ("fused", "image", "text").index(run.mode))
    first = comparison.runs[0].metrics
    size = f"{first['n']} {comparison.split} images of {first['patients']} patients"
    return f"Macro ROC AUC on {size}: " + "; ".join(map(_summary_of, order)) + "."


def _summary_of(run: RunResult) -> str:
    found = run.estimate("macro", "roc_auc")
    interval = "" if found.low is None else f" (95% interval {found.low:.3f} to {found.high:.3f})"
    return f"{run.name} ({MODE_NAMES[run.mode]}) {number(found.value)}{interval}"


def _best_per_metric(comparison: Comparison) -> dict[str, float | None]:
    """Metric -> the highest value among the runs, where there are several."""
    best: dict[str, float | None] = {}
    for name, path in HEADLINE.items():
        values = [run.estimate(*path).value for run in comparison.runs]
        known = [value for value in values if value is not None]
        best[name] = max(known) if len(known) > 1 else None
    return best


def undefined_reasons(metrics: Mapping[str, Any]) -> list[str]:
    """`ROC AUC of nodule: no positive sample`, one line for each class and reason, for the footnote of a run."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for path, reason in metrics["undefined"].items():
        *owner, name = path.split("/")
        grouped.setdefault(("/".join(owner[1:]) or "overall", reason), []).append(name.replace("_", " "))
    return [f"{', '.join(names)} ({owner}): {reason}" for (owner, reason), names in grouped.items()]
