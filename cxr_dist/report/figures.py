"""The page's figures, as inline SVG: those of the comparison, of its subgroups, and of each run."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from cxr_dist.evaluate.calibration import Reliability, reliability, stated, tempered
from cxr_dist.evaluate.compare import HEADLINE, Comparison
from cxr_dist.evaluate.curves import Curve, Curves, precision_recall_curves, roc_curves
from cxr_dist.evaluate.metrics import confusion_matrix
from cxr_dist.evaluate.risk_coverage import mc_answers, risk_coverage
from cxr_dist.evaluate.run_result import Estimate, RunResult
from cxr_dist.evaluate.uncertainty import most_uncertain_quarter
from cxr_dist.report import plots
from cxr_dist.report.curve_plots import PRECISION_RECALL, ROC, banded, reliability_diagram, risk_coverage_plot
from cxr_dist.report.forest import forest
from cxr_dist.report.svg import to_svg

METRIC_NAMES = {
    "macro_roc_auc": "ROC AUC, macro",
    "macro_average_precision": "Average precision, macro",
    "balanced_accuracy": "Balanced accuracy",
    "macro_f1": "F1, macro",
    "accuracy": "Accuracy",
    "brier": "Brier score",
    "log_loss": "Log loss (nats)",
}
Svgs = dict[str, str]
"""Caption -> the figure."""


def colours_of(runs: Sequence[RunResult]) -> list[str]:
    """The colour of each run's mode; where modes repeat, one colour after the other."""
    modes = [run.mode for run in runs]
    if len(set(modes)) == len(modes):
        return [plots.MODE_COLOURS[mode] for mode in modes]
    return [plots.CYCLE[i % len(plots.CYCLE)] for i in range(len(runs))]


def overview(comparison: Comparison) -> str:
    """The main metrics of all runs with their intervals."""
    runs = comparison.runs
    estimates = {
        METRIC_NAMES[name]: [_triple(run.estimate(*path)) for run in runs] for name, path in HEADLINE.items()
    }
    figure = plots.interval_plot(estimates, [run.name for run in runs], colours_of(runs))
    return to_svg(figure, "overview", "Main metrics of each run with their 95% intervals")


def comparison_figures(comparison: Comparison, curves: Sequence[tuple[Curves, Curves]]) -> Svgs:
    """Macro curves of all runs with bands, and their risk over coverage; `curves`: (ROC, precision–recall) per run."""
    runs, colours = comparison.runs, colours_of(comparison.runs)
    drawn: dict[str, Figure] = {}
    kinds = ((ROC, "roc_auc", "ROC"), (PRECISION_RECALL, "average_precision", "precision–recall"))
    for i, (kind, metric, name) in enumerate(kinds):
        macro = {run.name: each[i].macro for run, each in zip(runs, curves, strict=True)}
        found: dict[str, Curve] = {name: curve for name, curve in macro.items() if curve is not None}
        areas = {run.name: run.estimate("macro", metric).value for run in runs}
        shown = [colour for run, colour in zip(runs, colours, strict=True) if run.name in found]
        drawn[f"Mean of the classes' {name} curves, with 95% bands"] = banded(
            kind, found, areas, shown or colours
        )
    uncertain = [
        run for run in runs if run.predictions.mc is not None and len(mc_answers(run.predictions)[1])
    ]
    if uncertain:
        lines = {run.name: risk_coverage(*mc_answers(run.predictions)) for run in uncertain}
        areas = {run.name: run.metrics["uncertainty"]["aurc"] for run in uncertain}
        shown = [colour for run, colour in zip(runs, colours, strict=True) if run in uncertain]
        drawn["Mistakes left when the model answers only where it is surest"] = risk_coverage_plot(
            lines, areas, shown
        )
    return _svgs(drawn, "all", "All runs")


def forests(comparison: Comparison) -> dict[str, str]:
    """Attribute that all runs have subgroups for -> its forest plot."""
    runs, colours = comparison.runs, colours_of(comparison.runs)
    every = [run.evaluation["subgroups"] for run in runs]
    shared = [name for name in every[0] if all(name in found for found in every)]
    whole = [{"n": run.metrics["n"], "macro_roc_auc": _interval(run)} for run in runs]
    names = [run.name for run in runs]
    return {
        attribute: to_svg(
            forest([found[attribute] for found in every], whole, names, colours),
            f"forest-{i}",
            f"Macro ROC AUC by {attribute.replace('_', ' ')}, with 95% intervals",
        )
        for i, attribute in enumerate(shared)
    }


def _interval(run: RunResult) -> dict[str, float | None]:
    value, low, high = _triple(run.estimate("macro", "roc_auc"))
    return {"value": value, "low": low, "high": high}


def run_figures(run: RunResult, curves: tuple[Curves, Curves], colour: str, unique: str) -> Svgs:
    """The figures of one run, in the order of the page."""
    per_class, predictions = run.metrics["per_class"], run.predictions
    drawn = {}
    for kind, found, metric in zip(
        (ROC, PRECISION_RECALL), curves, ("roc_auc", "average_precision"), strict=True
    ):
        areas = {name: values[metric] for name, values in per_class.items()}
        name = "ROC" if kind is ROC else "Precision–recall"
        drawn[f"{name} curves, each class against the rest"] = banded(kind, found.per_class, areas)
    if predictions.task == "multiclass":
        caption = "Confusion matrix: images, and share of the true class"
        drawn[caption] = plots.confusion(confusion_matrix(predictions), predictions.classes)
    bins = reliability_of(run)
    if bins is not None:
        drawn["Reliability: does a stated probability come true as often?"] = reliability_diagram(
            *bins, colour
        )
    if predictions.mc is not None:
        drawn["Uncertainty of right and of wrong answers"] = _histogram(run)
    if run.history:
        drawn["Training"] = _training(run)
    return _svgs(drawn, f"run{unique}", run.name)


def reliability_of(run: RunResult) -> tuple[Reliability, Reliability | None] | None:
    """Bins of the stated probabilities, and after temperature scaling; None where no label is known."""
    p, calibration = run.predictions, run.evaluation["calibration"]
    before = stated(p.probabilities, p.labels, p.task)
    if len(before[0]) == 0:
        return None
    if calibration is None or calibration["temperature"] is None:
        return reliability(*before), None
    after = tempered(p.probabilities, calibration["temperature"], p.task)
    return reliability(*before), reliability(*stated(after, p.labels, p.task))


def curves_of(run: RunResult) -> tuple[Curves, Curves]:
    """(ROC, precision–recall) curves with bands: computed once, drawn twice."""
    return roc_curves(run.predictions), precision_recall_curves(run.predictions)


def _histogram(run: RunResult) -> Figure:
    entropy, right = mc_answers(run.predictions)
    top = entropy[most_uncertain_quarter(entropy)]
    return plots.uncertainty_histogram(entropy, right, float(top.min()) if len(top) else None)


def _training(run: RunResult) -> Figure:
    loss = [(line["step"], line["loss"]) for line in run.history if "loss" in line]
    checks = [(line["step"], line["validation"]["mean_auc"]) for line in run.history if "validation" in line]
    known = [(step, auc) for step, auc in checks if auc is not None]
    return plots.training_curves(_columns(loss), _columns(known), run.evaluation["checkpoint_step"])


def _columns(pairs: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in pairs], [y for _, y in pairs]


def _triple(estimate: Estimate) -> tuple[float | None, float | None, float | None]:
    return estimate.value, estimate.low, estimate.high


def _svgs(drawn: Mapping[str, Any], unique: str, owner: str) -> Svgs:
    return {
        caption: to_svg(figure, f"{unique}-{i}", f"{owner}: {caption}")
        for i, (caption, figure) in enumerate(drawn.items())
    }
