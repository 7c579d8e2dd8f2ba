"""The figures of the page as inline SVG: of the comparison, of its subgroups and of each run."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from matplotlib.figure import Figure

from cxr_dist.evaluate.calibration import Calibrator, Reliability, reliability, stated
from cxr_dist.evaluate.compare import HEADLINE, Comparison
from cxr_dist.evaluate.curves import Curves, precision_recall_curves, roc_curves
from cxr_dist.evaluate.metrics import confusion_matrix
from cxr_dist.evaluate.risk_coverage import mc_answers, risk_coverage
from cxr_dist.evaluate.run_result import RunResult
from cxr_dist.evaluate.subgroups import counts_of, few_note
from cxr_dist.evaluate.uncertainty import most_uncertain_quarter
from cxr_dist.report import plots
from cxr_dist.report.confusion_plot import confusion
from cxr_dist.report.curve_plots import banded, reliability_diagram, risk_coverage_plot
from cxr_dist.report.forest import forest
from cxr_dist.report.plots import PRECISION_RECALL, ROC
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
_KINDS = (ROC, PRECISION_RECALL)  # in the order of `curves_of`
Svgs = dict[str, str]
"""Caption -> figure."""


def colours_of(runs: Sequence[RunResult]) -> list[str]:
    """Return the colour of each run's mode, or the colours of the cycle in order if two runs have the same mode."""
    modes = [run.mode for run in runs]
    if len(set(modes)) == len(modes):
        return [plots.MODE_COLOURS[mode] for mode in modes]
    return [plots.CYCLE[i % len(plots.CYCLE)] for i in range(len(runs))]


def overview(comparison: Comparison) -> str:
    """Draw the main metrics of all runs with their confidence intervals."""
    runs = comparison.runs
    estimates = {METRIC_NAMES[name]: [run.estimate(*path) for run in runs] for name, path in HEADLINE.items()}
    figure = plots.interval_plot(estimates, [run.name for run in runs], colours_of(runs))
    return to_svg(figure, "overview", "Main metrics of each run with 95% confidence intervals")


def comparison_figures(comparison: Comparison, curves: Sequence[tuple[Curves, Curves]]) -> Svgs:
    """Draw the macro-averaged curves and the risk–coverage curves of all runs.

    `curves` holds (ROC, precision–recall) for each run.
    """
    runs, colours = comparison.runs, colours_of(comparison.runs)
    drawn: dict[str, Figure] = {}
    for i, kind in enumerate(_KINDS):
        means = {run.name: of_run[i].macro for run, of_run in zip(runs, curves, strict=True)}
        macro = {name: curve for name, curve in means.items() if curve is not None}
        areas = {run.name: run.estimate("macro", kind.metric).value for run in runs}
        shown = [colour for run, colour in zip(runs, colours, strict=True) if run.name in macro]
        drawn[f"Macro-averaged {kind.name} curves with 95% confidence bands"] = banded(
            kind, macro, areas, shown or colours
        )
    answers = {run.name: mc_answers(run.predictions) for run in runs if run.predictions.mc is not None}
    lines = {name: risk_coverage(entropy, correct) for name, (entropy, correct) in answers.items() if len(correct)}
    if lines:
        areas = {run.name: run.metrics["uncertainty"]["aurc"] for run in runs if run.name in lines}
        shown = [colour for run, colour in zip(runs, colours, strict=True) if run.name in lines]
        caption = "Risk–coverage curves: error rate when only the most confident predictions are kept"
        drawn[caption] = risk_coverage_plot(lines, areas, shown)
    return _svgs(drawn, "all", "All runs")


def forests(comparison: Comparison) -> dict[str, str]:
    """Attribute -> forest plot, for each attribute by which every run was evaluated."""
    runs, colours = comparison.runs, colours_of(comparison.runs)
    every = [run.evaluation["subgroups"] for run in runs]
    shared = [name for name in every[0] if all(name in of_run for of_run in every)]
    aucs = [asdict(run.estimate("macro", "roc_auc")) for run in runs]
    notes = [few_note(counts_of(run.predictions)) for run in runs]
    overall = [
        {"n": run.metrics["n"], "macro_roc_auc": auc, "note": note}
        for run, auc, note in zip(runs, aucs, notes, strict=True)
    ]
    names = [run.name for run in runs]
    return {
        attribute: to_svg(
            forest([of_run[attribute] for of_run in every], overall, names, colours),
            f"forest-{i}",
            f"Macro ROC AUC by {attribute.replace('_', ' ')} with 95% confidence intervals",
        )
        for i, attribute in enumerate(shared)
    }


def run_figures(run: RunResult, curves: tuple[Curves, Curves], colour: str, unique: str) -> Svgs:
    """Draw the figures of one run in the order of the page."""
    per_class, predictions = run.metrics["per_class"], run.predictions
    drawn = {}
    for kind, of_kind in zip(_KINDS, curves, strict=True):
        areas = {name: values[kind.metric] for name, values in per_class.items()}
        drawn[f"One-vs-rest {kind.name} curves of the classes"] = banded(kind, of_kind.per_class, areas)
    if predictions.task == "multiclass":
        caption = "Confusion matrix: number of images and share of the true class"
        drawn[caption] = confusion(confusion_matrix(predictions), predictions.classes)
    bins = reliability_of(run)
    if bins is not None:
        caption = "Reliability diagram: observed frequency against predicted probability"
        drawn[caption] = reliability_diagram(*bins, colour)
    if predictions.mc is not None:
        drawn["Predictive entropy of correct and incorrect predictions"] = _histogram(run)
    if run.history:
        drawn["Training loss and validation ROC AUC"] = _training(run)
    return _svgs(drawn, f"run{unique}", run.name)


def reliability_of(run: RunResult) -> tuple[Reliability, Reliability | None] | None:
    """Bin the probabilities before and after calibration; None if no label is known."""
    p = run.predictions
    before = stated(p.raw, p.labels, p.task)
    if len(before[0]) == 0:
        return None
    # The folds of pooled runs have a calibrator each.
    after = p if run.folds else p.calibrated(Calibrator.recorded(run.evaluation["calibration"], p.classes))
    if after.uncalibrated is None:
        return reliability(*before), None
    return reliability(*before), reliability(*stated(after.probabilities, p.labels, p.task))


def curves_of(run: RunResult) -> tuple[Curves, Curves]:
    """Compute the (ROC, precision–recall) curves with bands, which the page draws twice."""
    return roc_curves(run.predictions), precision_recall_curves(run.predictions)


def _histogram(run: RunResult) -> Figure:
    entropy, correct = mc_answers(run.predictions)
    top = entropy[most_uncertain_quarter(entropy)]
    return plots.uncertainty_histogram(entropy, correct, float(top.min()) if len(top) else None)


def _training(run: RunResult) -> Figure:
    loss = [(line["step"], line["loss"]) for line in run.history if "loss" in line]
    score = "mean_recall" if run.config.model.is_contrastive else "mean_auc"
    checks = [(line["step"], line["validation"].get(score)) for line in run.history if "validation" in line]
    known = [(step, value) for step, value in checks if value is not None]
    name = "mean recall" if run.config.model.is_contrastive else "ROC AUC, macro"
    return plots.training_curves(_columns(loss), _columns(known), run.evaluation["checkpoint_step"], name)


def _columns(pairs: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in pairs], [y for _, y in pairs]


def _svgs(drawn: Mapping[str, Figure], unique: str, owner: str) -> Svgs:
    return {
        caption: to_svg(figure, f"{unique}-{i}", f"{owner}: {caption}")
        for i, (caption, figure) in enumerate(drawn.items())
    }
