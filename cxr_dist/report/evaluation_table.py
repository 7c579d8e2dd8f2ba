"""What `cxr-dist evaluate` prints: the five main metrics with intervals, and what was not evaluated or not chosen."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from cxr_dist.evaluate.compare import HEADLINE
from cxr_dist.evaluate.retrieval import CUTS, DIRECTIONS
from cxr_dist.evaluate.run_result import Estimate, estimate_in
from cxr_dist.format.escape import terminal_text
from cxr_dist.report.figures import METRIC_NAMES
from cxr_dist.report.prediction_sets import set_statement


def print_evaluation(evaluation: Mapping[str, Any], console: Console) -> None:
    """Print the content of a metrics.json in short."""
    metrics, external = evaluation["metrics"], evaluation["external"]
    shards = f" of other shards ({external['name']})" if external else ""
    title = (
        f"{evaluation['run']}: {metrics['n']} {evaluation['split']} samples{shards} of {metrics['patients']} patients, "
        "with 95% confidence intervals"
    )
    table = Table(title=terminal_text(title), title_justify="left", show_header=False)
    for name, path in HEADLINE.items():
        table.add_row(METRIC_NAMES[name], _cell(estimate_in(evaluation, *path)))
    console.print(table)
    for line in _remarks(evaluation):
        console.print(terminal_text(line))


def _cell(estimate: Estimate) -> str:
    if estimate.value is None:
        return "not defined"
    return f"{estimate.value:.3f}" + ("" if estimate.low is None else f" ({estimate.low:.3f}–{estimate.high:.3f})")


def _remarks(evaluation: Mapping[str, Any]) -> Iterator[str]:
    yield f"Calibration: {_calibration(evaluation)}"
    if evaluation.get("conformal"):
        yield set_statement(evaluation)
    if "mean_recall" in evaluation.get("retrieval", {}):
        yield _retrieval(evaluation["retrieval"])
    if "audit" in evaluation:
        yield f"Audit: {evaluation['audit']['statement']}"
    if "explanations" in evaluation:
        yield f"Explanations: {evaluation['explanations']['statement']}"
    external = evaluation["external"] or {"classes_not_evaluated": {}, "notes": []}
    for name, reason in external["classes_not_evaluated"].items():
        yield f"Not evaluated: {name} ({reason})"
    for note in external["notes"]:
        yield f"Note: {note}"
    if evaluation["made_data"]:
        yield "The images and reports are synthetic: these results have no clinical meaning."


def _retrieval(block: Mapping[str, Any]) -> str:
    values = {d: " / ".join(f"{block[d][f'recall_at_{k}']['value']:.3f}" for k in CUTS) for d in DIRECTIONS}
    cuts = ", ".join(map(str, CUTS))
    return (
        f"Retrieval: recall at {cuts} of {block['n']} images for their reports {values['image_to_report']}, and of "
        f"reports for their images {values['report_to_image']}"
    )


def _calibration(evaluation: Mapping[str, Any]) -> str:
    block = evaluation["calibration"]
    if block is None:
        return "none, and no thresholds"
    others = block["chosen_on"]["source"] == "validation of the evaluated shards"
    where = "the evaluated shards' validation split (--recalibrate)" if others else "the run's own validation split"
    why = f"; {block['reason']}" if block.get("reason") else ""
    return f"{block['method']}, chosen on {where}{why}"
