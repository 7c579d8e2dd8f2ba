"""What the page and the terminal say about the prediction sets of a run."""

from collections.abc import Mapping
from typing import Any


def set_statement(evaluation: Mapping[str, Any]) -> str:
    """Coverage and size of the sets in the block `conformal` of a metrics.json, in words."""
    block, multilabel = evaluation["conformal"], evaluation["metrics"]["task"] == "multilabel"
    coverage, size = _estimate(block["coverage"], 100, "%"), _estimate(block["mean_size"], 1, "", 2)
    target = f"{block['level']:.0%}"
    if multilabel:
        return (
            f"Prediction sets ({target}): {coverage} of the known labels are in the set of their label, which holds "
            f"{size} answers (present, absent) on average."
        )
    return (
        f"Prediction sets ({target}): {coverage} of the samples have their class in their set, which holds {size} "
        f"of {len(block['per_outcome'])} classes on average."
    )


def _estimate(estimate: Mapping[str, float | None], factor: float, unit: str, digits: int = 1) -> str:
    def written(value: float) -> str:
        return f"{factor * value:.{digits}f}{unit}"

    value, low, high = (estimate[side] for side in ("value", "low", "high"))
    if value is None:
        return "an unknown share"
    return written(value) + ("" if low is None or high is None else f" ({written(low)} to {written(high)})")
