"""A comparison in, report.html out: one self-contained page, with inline figures, no script and no network.

The page holds numbers, names of runs and classes, and how the runs were made; never keys, patients or report
text. The template escapes every value. The same comparison gives the same bytes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from cxr_dist.evaluate.compare import HEADLINE, MODE_NAMES, Comparison
from cxr_dist.evaluate.metrics import confusion_matrix, curves
from cxr_dist.evaluate.risk_coverage import mc_answers
from cxr_dist.evaluate.run_result import Estimate, RunResult
from cxr_dist.evaluate.uncertainty import most_uncertain_quarter
from cxr_dist.files import write_whole
from cxr_dist.report import plots
from cxr_dist.report.provenance import data_facts, facts_of_runs
from cxr_dist.report.svg import to_svg

METRIC_NAMES = {
    "macro_roc_auc": "ROC AUC, macro",
    "macro_average_precision": "Average precision, macro",
    "balanced_accuracy": "Balanced accuracy",
    "macro_f1": "F1, macro",
    "accuracy": "Accuracy",
}
CLASS_COLUMNS = {
    "average_precision": "Average precision",
    "recall": "Sensitivity",
    "specificity": "Specificity",
    "precision": "Precision",
    "f1": "F1",
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
    environment.filters |= {"number": number, "undefined_reasons": undefined_reasons}
    return environment.get_template("report.html.j2").render(
        comparison=comparison,
        first=comparison.runs[0].metrics,
        mode_names=MODE_NAMES,
        metric_names=METRIC_NAMES,
        class_columns=CLASS_COLUMNS,
        headline=HEADLINE,
        best=_best_per_metric(comparison),
        summary=summary(comparison),
        overview=_overview(comparison),
        figures=[_run_figures(run, str(i)) for i, run in enumerate(comparison.runs)],
        facts={"Data": data_facts(comparison)} | facts_of_runs(comparison.runs),
    )


def number(value: float | None) -> str:
    """Three decimals, or that there is none."""
    return "not defined" if value is None else f"{value:.3f}"


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


def _overview(comparison: Comparison) -> str:
    estimates = {
        METRIC_NAMES[name]: [_triple(run.estimate(*path)) for run in comparison.runs]
        for name, path in HEADLINE.items()
    }
    names = [run.name for run in comparison.runs]
    figure = plots.interval_plot(estimates, names, _colours(comparison.runs))
    return to_svg(figure, "overview", "Main metrics of each run with their 95% intervals")


def _triple(estimate: Estimate) -> tuple[float | None, float | None, float | None]:
    return estimate.value, estimate.low, estimate.high


def _colours(runs: Sequence[RunResult]) -> list[str]:
    """The colour of each run's mode; where modes repeat, one colour after the other."""
    modes = [run.mode for run in runs]
    if len(set(modes)) == len(modes):
        return [plots.MODE_COLOURS[mode] for mode in modes]
    return [plots.CYCLE[i % len(plots.CYCLE)] for i in range(len(runs))]


def _run_figures(run: RunResult, unique: str) -> dict[str, str]:
    """Caption -> SVG, in the order of the page: two columns, of a square and a flat figure each."""
    metrics, predictions = run.metrics, run.predictions
    aucs = {name: values["roc_auc"] for name, values in metrics["per_class"].items()}
    drawn = {"ROC curves, each class against the rest": plots.roc(curves(predictions), aucs)}
    if predictions.mc is not None:
        entropy, right = mc_answers(predictions)
        top = entropy[most_uncertain_quarter(entropy)]
        threshold = float(top.min()) if len(top) else None
        drawn["Uncertainty of right and of wrong answers"] = plots.uncertainty_histogram(
            entropy, right, threshold
        )
    if predictions.task == "multiclass":
        matrix = confusion_matrix(predictions)
        caption = "Confusion matrix: images, and share of the true class"
        drawn[caption] = plots.confusion(matrix, predictions.classes)
    if run.history:
        drawn["Training"] = _training(run)
    return {
        caption: to_svg(figure, f"run{unique}-{i}", f"{run.name}: {caption}")
        for i, (caption, figure) in enumerate(drawn.items())
    }


def _training(run: RunResult) -> Any:
    loss = [(line["step"], line["loss"]) for line in run.history if "loss" in line]
    checks = [(line["step"], line["validation"]["mean_auc"]) for line in run.history if "validation" in line]
    known = [(step, auc) for step, auc in checks if auc is not None]
    return plots.training_curves(_columns(loss), _columns(known), run.evaluation["checkpoint_step"])


def _columns(pairs: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in pairs], [y for _, y in pairs]


def undefined_reasons(metrics: Mapping[str, Any]) -> list[str]:
    """`ROC AUC of nodule: no positive sample`, one line for each class and reason, for the footnote of a run."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for path, reason in metrics["undefined"].items():
        *owner, name = path.split("/")
        grouped.setdefault(("/".join(owner[1:]) or "overall", reason), []).append(name.replace("_", " "))
    return [f"{', '.join(names)} ({owner}): {reason}" for (owner, reason), names in grouped.items()]
