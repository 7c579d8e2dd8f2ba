"""Metrics with intervals from arrays or DataFrames of labels and probabilities, wherever they come from."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cxr_dist.errors import UserError, require
from cxr_dist.evaluate.compare import HEADLINE, LOWER_IS_BETTER
from cxr_dist.evaluate.intervals import Resampled, intervals, resampled
from cxr_dist.evaluate.metrics import MACRO, compute_metrics
from cxr_dist.evaluate.paired import auc_difference, bootstrap_difference
from cxr_dist.evaluate.predictions import Predictions
from cxr_dist.format.manifest import UNKNOWN, Task

if TYPE_CHECKING:
    import pandas as pd

_OVERALL = HEADLINE | LOWER_IS_BETTER | {"ece": ("ece",)}
_ROUNDING = 1e-3  # how far the probabilities of the classes may be from a sum of 1


@dataclass(frozen=True, kw_only=True, repr=False)
class Measured:
    """The metrics of one set of predictions, with 95% intervals over patients."""

    predictions: Predictions
    n_bootstrap: int
    seed: int

    @cached_property
    def values(self) -> dict[str, Any]:
        """All metrics, as in the block `metrics` of metrics.json; None where one is undefined, with the reason."""
        return compute_metrics(self.predictions)

    @cached_property
    def intervals(self) -> dict[str, Any]:
        """95% intervals, nested as `values` are: {"low", "high", "skipped"}."""
        return intervals(self.predictions, self.n_bootstrap, self.seed)

    def frame(self) -> "pd.DataFrame":
        """Return a table of `metric`, `class` (empty for a metric of all classes), `value`, `low` and `high`."""
        import pandas as pd

        paths = {(name, ""): path for name, path in _OVERALL.items()}
        paths |= {(name, c): ("per_class", c, name) for c in self.predictions.classes for name in MACRO}
        rows = []
        for (name, of_class), path in paths.items():
            bounds = _at(self.intervals, path) or {}
            rows.append((name, of_class, _at(self.values, path), bounds.get("low"), bounds.get("high")))
        table = pd.DataFrame(rows, columns=["metric", "class", "value", "low", "high"])
        return table.astype({"value": float, "low": float, "high": float})

    def difference(self, other: "Measured") -> "pd.DataFrame":
        """Return a table of these metrics minus those of `other`: `value`, `low`, `high`, `p` and `method` by metric.

        Both must hold predictions for the same samples in the same order. The differences are paired: the bootstrap
        resamples the same patients for both, and the AUC of a class is tested by DeLong's method. Raises UserError for
        other labels, patients or classes.
        """
        import pandas as pd

        mine, theirs = self.predictions, other.predictions
        same = mine.classes == theirs.classes and mine.patients == theirs.patients
        require(
            same and np.array_equal(mine.labels, theirs.labels),
            "the two sets of predictions differ in their classes, labels or patients: give both for the same samples "
            "in the same order",
        )
        resamples = self._resampled, replace(other, n_bootstrap=self.n_bootstrap, seed=self.seed)._resampled
        found = {
            name: bootstrap_difference((_at(self.values, path), _at(other.values, path)), resamples, path)
            for name, path in (HEADLINE | LOWER_IS_BETTER).items()
        }
        for index, name in enumerate(mine.classes):
            found[f"roc_auc/{name}"] = auc_difference(mine, theirs, index)
        rows = {name: asdict(difference) for name, difference in found.items()}
        return pd.DataFrame.from_dict(rows, orient="index")[["value", "low", "high", "p", "method"]]

    def __repr__(self) -> str:
        lines = [f"Metrics of {len(self.predictions)} samples of {self.values['patients']} patients, 95% intervals"]
        for name, path in _OVERALL.items():
            value, bounds = _at(self.values, path), _at(self.intervals, path) or {}
            low, high = bounds.get("low"), bounds.get("high")
            shown = "undefined" if value is None else f"{value:.3f}"
            lines.append(f"  {name:<24}{shown}" + ("" if low is None else f"  ({low:.3f} to {high:.3f})"))
        return "\n".join(lines)

    @cached_property
    def _resampled(self) -> Resampled:
        return resampled(self.predictions, self.n_bootstrap, self.seed)


def measure(
    labels: Any,
    probabilities: Any,
    patients: Any = None,
    *,
    classes: Sequence[str] | None = None,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> Measured:
    """Return the metrics of predictions; `cxr_dist.metrics` documents the arguments."""
    given = np.asarray(probabilities, dtype=np.float64)
    names = tuple(map(str, classes if classes is not None else _columns(probabilities, given)))
    matrix = given[:, None] if given.ndim == 1 else given
    require(
        matrix.ndim == 2 and matrix.shape[1] == len(names) and len(set(names)) == len(names),
        f"probabilities have the shape {list(given.shape)} for {len(names)} classes; expected [samples, classes], or "
        "[samples] for one class that is present or absent",
    )
    task, codes = _labels(labels, names, single=given.ndim == 1)
    _check(matrix, codes, task)
    n = len(matrix)
    of = [str(number) for number in range(n)] if patients is None else list(map(str, np.asarray(patients).tolist()))
    require(len(of) == n, f"there are {len(of)} patients for {n} samples: give one for each sample")
    predictions = Predictions(
        task=task,
        classes=names,
        keys=[str(number) for number in range(n)],
        patients=of,
        labels=codes,
        probabilities=matrix,
    )
    return Measured(predictions=predictions, n_bootstrap=n_bootstrap, seed=seed)


def _columns(probabilities: Any, given: NDArray[np.float64]) -> Sequence[str]:
    """The names of the classes: a DataFrame's columns, else "0", "1", …, or "positive" for one class."""
    if given.ndim == 1:
        return ["positive"]
    columns = getattr(probabilities, "columns", None)
    return list(map(str, range(given.shape[1]) if columns is None else columns))


def _labels(labels: Any, names: tuple[str, ...], *, single: bool) -> tuple[Task, NDArray[np.int16]]:
    """The task, and codes [n, 1] of classes or [n, C] of 1, 0 and UNKNOWN; raises UserError for any other label."""
    columns = getattr(labels, "columns", None)
    if columns is not None and len(columns) == len(names) > 1:
        absent = [name for name in names if name not in map(str, columns)]
        require(not absent, f"the labels have no column {absent[:1]}; expected the classes {', '.join(names)}")
        labels = labels[list(names)] if set(names) <= set(columns) else labels
    raw = np.asarray(labels)
    if single or (raw.ndim == 2 and raw.shape[1] == len(names)):
        missing = getattr(
            labels, "isna", lambda: raw != raw
        )()  # pandas' own missing value equals nothing, not even False
        values = np.where(np.asarray(missing), np.nan, raw).astype(np.float64)
        return "multilabel", _known(values.reshape(len(raw), -1))
    require(raw.ndim == 1, f"labels have the shape {list(raw.shape)}; expected [samples], or [samples, classes]")
    if raw.dtype.kind in "OUS":
        code = {name: number for number, name in enumerate(names)}
        require(
            all(str(label) in code for label in raw), f"a label is none of the classes, which are {', '.join(names)}"
        )
        return "multiclass", np.array([[code[str(label)]] for label in raw], np.int16)
    whole = raw.astype(np.float64)
    valid = (whole == np.floor(whole)) & (whole >= 0) & (whole < len(names))
    require(bool(valid.all()), f"a label is not the number of a class, 0 to {len(names) - 1}, nor a class's name")
    return "multiclass", whole[:, None].astype(np.int16)


def _known(values: NDArray[np.float64]) -> NDArray[np.int16]:
    unknown = np.isnan(values) | (values == UNKNOWN)
    require(
        bool((unknown | np.isin(values, (0, 1))).all()),
        "a label of a multilabel task is neither 1 (present), 0 (absent) nor -1 or missing (unknown)",
    )
    return np.where(unknown, UNKNOWN, np.nan_to_num(values)).astype(np.int16)


def _check(matrix: NDArray[np.float64], codes: NDArray[np.int16], task: Task) -> None:
    """Raise UserError if labels and probabilities do not belong together."""
    if len(matrix) != len(codes):
        raise UserError(f"there are {len(codes)} labels for {len(matrix)} rows of probabilities: give one for each")
    low, high = (float(matrix.min()), float(matrix.max())) if matrix.size else (0.0, 0.0)
    require(0 <= low <= high <= 1, f"probabilities are from {low:.4g} to {high:.4g}; expected 0 to 1, and not logits")
    if task == "multiclass":
        off = float(np.abs(matrix.sum(axis=1) - 1).max(initial=0))
        require(off < _ROUNDING, f"the probabilities of a sample's classes add up to 1 ± {off:.3g}; expected 1")


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    """The value at a path in nested dictionaries; None if there is none."""
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree
