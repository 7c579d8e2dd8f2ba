"""A comparison in, report.html out: one self-contained page, with inline figures, no script and no network.

The page holds numbers, names of runs and classes, and how the runs were made; never keys, patients, films or
report text, unless it is given examples: then it says so, and only its owner may read the file. The template
escapes every value. The same comparison gives the same bytes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from cxr_dist.evaluate.compare import HEADLINE, LOWER_IS_BETTER, MODE_NAMES, Comparison
from cxr_dist.evaluate.run_result import RunResult
from cxr_dist.files import whole_file
from cxr_dist.report import figures
from cxr_dist.report.closing_table import sees
from cxr_dist.report.data_flow import data_flow
from cxr_dist.report.examples import RunExamples
from cxr_dist.report.figures import METRIC_NAMES
from cxr_dist.report.methods import dropout_place, methods
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
    "This page shows films and report text of single cases. Store it, share it and delete it as you do the "
    "shards; without --with-examples the page has nothing of the kind."
)
_MADE_CASES = (
    "This page shows films and reports of single cases, drawn and written by a program. Made from real data, "
    "it would be patient data, to be treated as the shards are."
)


def write_page(comparison: Comparison, out: Path, examples: Sequence[RunExamples] = ()) -> None:
    """Write report.html to the file `out`, whole or not at all; with examples, for its owner only (0600)."""
    with whole_file(out, mode=0o600 if examples else 0o644) as file:
        file.write(render_page(comparison, examples).encode("utf-8"))


def render_page(comparison: Comparison, examples: Sequence[RunExamples] = ()) -> str:
    """The page as one HTML text; `examples`, where they were asked for, has one entry per run."""
    assert len(examples) in (0, len(comparison.runs))
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
        "dropout_place": dropout_place,
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
        compared=HEADLINE | LOWER_IS_BETTER,
        best=_best_per_metric(comparison),
        summary=summary(comparison),
        statements=leakage_statements(comparison),
        flow=None if manifest is None else data_flow(manifest),
        methods=methods(comparison),
        examples=examples,
        examples_warning=_MADE_CASES if comparison.made_data else _PATIENT_DATA,
        longest_report=_longest_report(comparison.runs),
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
    return f"{run.name} ({sees(run)}) {number(found.value)}{interval}"


def _longest_report(runs: Sequence[RunResult]) -> int | None:
    """After how many tokens reports are cut; None where no run reads one."""
    return max((run.config.data.max_tokens for run in runs if run.mode != "image"), default=None)


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
