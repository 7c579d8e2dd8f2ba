"""The comparison of runs on the same samples: metrics with intervals, and paired differences.

Each fused run is compared to the run that reads only the report and to the run that reads only the image, and every
run to the first.

Runs that were evaluated on different samples, labels or classes are refused, because their metrics are not comparable.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_dist.errors import UserError
from cxr_dist.evaluate import leakage
from cxr_dist.evaluate.ablation import Ablation, adjusted, pairs_of
from cxr_dist.evaluate.controls import Control, Controls
from cxr_dist.evaluate.generalisation import Generalisation, read_generalisation
from cxr_dist.evaluate.intervals import MetricPath, Resampled, resampled
from cxr_dist.evaluate.out_of_fold import pooled
from cxr_dist.evaluate.paired import Difference, auc_difference, bootstrap_difference
from cxr_dist.evaluate.predictions import Predictions
from cxr_dist.evaluate.repeats import ComparisonRow, PairedRepeats, RepeatedRuns, paired_repeats, repeated_runs, rows_of
from cxr_dist.evaluate.run_result import FIELDS, RunResult, aligned, read_run

if TYPE_CHECKING:
    import pandas as pd

MODE_NAMES = {"image": "image only", "text": "report only", "fused": "image + report"}
HEADLINE = {
    "macro_roc_auc": ("macro", "roc_auc"),
    "macro_average_precision": ("macro", "average_precision"),
    "balanced_accuracy": ("balanced_accuracy",),
    "macro_f1": ("macro", "f1"),
    "accuracy": ("accuracy",),
}
"""Name in comparison.json -> path in metrics.json; the columns of the table. Higher is better."""
LOWER_IS_BETTER = {"brier": ("brier",), "log_loss": ("log_loss",)}
"""Like HEADLINE, for metrics of which lower is better."""
P_VALUES = (
    "p-values are two-sided; those of the macro ROC AUC are also shown adjusted by Holm's method for the number of "
    "differences in macro ROC AUC in the same table, and the others are not adjusted"
)
"""For readers of the page, the terminal and comparison.json."""
_WITH_TEXT = {"baseline": "enhanced", "demo-baseline": "demo"}
"""Named run without text -> the named run with text that it is compared to."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Runs that were evaluated on the same samples."""

    split: str
    classes: tuple[str, ...]
    runs: tuple[RunResult, ...]
    differences: tuple[Mapping[str, Difference], ...]
    """For each run and metric the difference to the first run; empty for the first run."""
    ablations: tuple[Ablation, ...]
    """For each fused run the difference to a report-only run and to an image-only run, where there are such runs."""
    generalisation: tuple[Generalisation, ...]
    """The runs that were also evaluated on other shards."""
    warnings: tuple[str, ...]
    """What a reader must know before trusting the table."""
    controls: Controls = field(default_factory=Controls)
    """Logistic regressions without a network, beside the runs."""

    @property
    def repeats(self) -> list[RepeatedRuns]:
        """The runs that differ only in their seed or test fold."""
        return repeated_runs(self.runs)

    @property
    def seeds(self) -> list[RepeatedRuns]:
        """The runs that differ only in their seed."""
        return [group for group in self.repeats if not group.folds]

    @property
    def repeated_differences(self) -> list[PairedRepeats]:
        """Each repeated configuration with the first one, run by run."""
        return paired_repeats(self.repeats)

    @property
    def rows(self) -> list[ComparisonRow]:
        """The configurations: a row each, however often they were repeated."""
        return rows_of(self.runs, self.repeats)

    @property
    def not_evaluated(self) -> dict[str, str]:
        """Mode (image, text, fused) that no run has -> commands that train and evaluate such a run.

        The named run is that of a run which reads reports, if there is one.
        """
        source = min(self.runs, key=lambda run: ("fused", "text", "image").index(run.mode))
        named_run = _WITH_TEXT.get(source.config.run, source.config.run)
        modes, fold = {run.mode for run in self.runs}, " --data.fold FOLD" if source.folds else ""
        return {
            mode: f"cxr-dist train {named_run} --model.mode {mode} --data.shards SHARDS{fold} --out RUN_DIR && "
            "cxr-dist evaluate RUN_DIR"
            for mode in MODE_NAMES
            if mode not in modes
        }

    @property
    def made_data(self) -> bool:
        """Whether the images and reports are synthetic."""
        return any(run.evaluation["made_data"] for run in self.runs)

    def frame(self) -> "pd.DataFrame":
        """Return a table with a row for each run and metric, with its interval and its difference to the first run."""
        import pandas as pd  # slow to import

        rows = []
        for run in self.to_dict()["runs"]:
            for metric, estimate in run["metrics"].items():
                difference = run["differences"].get(metric, {})
                row = {"run": run["name"], "metric": metric}
                row |= {name: estimate[name] for name in ("value", "low", "high")}
                row |= {f"difference_{name}": difference.get(name) for name in ("value", "low", "high")}
                rows.append(row | {"p": difference.get("p")})
        numbers = [name for name in rows[0] if name not in ("run", "metric")]
        return pd.DataFrame(rows).astype(dict.fromkeys(numbers, float))

    def to_dict(self) -> dict[str, Any]:
        """The content of comparison.json: for each run, metrics as {"value", "low", "high"}, and differences."""
        first = self.runs[0].metrics
        return {
            "split": self.split,
            "task": first["task"],
            "samples": first["n"],
            "patients": first["patients"],
            "classes": list(self.classes),
            "made_data": self.made_data,
            "interval": {k: self.runs[0].evaluation["intervals"][k] for k in ("level", "method")},
            "p_values": P_VALUES,
            "ablations": [ablation.to_dict() for ablation in self.ablations],
            "external": [each.to_dict() for one in self.generalisation for each in one.all],
            "controls": {
                "reason": self.controls.reason or None,
                "rows": [_control_to_dict(control, self.classes) for control in self.controls.rows],
            },
            "seeds": [group.to_dict(HEADLINE | LOWER_IS_BETTER) for group in self.seeds],
            "repeated": [group.to_dict(HEADLINE | LOWER_IS_BETTER) for group in self.repeats],
            "repeated_differences": [pairs.to_dict(HEADLINE | LOWER_IS_BETTER) for pairs in self.repeated_differences],
            "warnings": list(self.warnings),
            "not_evaluated": self.not_evaluated,
            "runs": [
                _run_to_dict(run, differences, self.runs[0].name, self.classes)
                for run, differences in zip(self.runs, self.differences, strict=True)
            ],
        }


def compare(
    run_dirs: Sequence[Path], split: str = "test", n_bootstrap: int = 1000, shards: str | None = None
) -> Comparison:
    """Read runs, check that they are comparable, and compare each to the first.

    The runs of a cross-validation are pooled: their out-of-fold predictions are one run of the comparison.

    `shards` is the folder of the shards if they have moved since training; the metrics do not depend on it.

    Raises UserError for a folder given twice or without an evaluation of `split`, and for runs that differ in
    classes, samples or labels.
    """
    if not run_dirs:
        raise UserError("nothing to compare: name at least one run folder")
    names = _names(run_dirs)
    given = [read_run(folder, name, split, shards) for folder, name in zip(run_dirs, names, strict=True)]
    runs = pooled(given, split, n_bootstrap)
    for run in runs[1:]:
        _require_same_samples(runs[0], run)
    runs = [aligned(run, runs[0].predictions.keys) for run in runs]
    difference = _paired(n_bootstrap)
    ablations = [Ablation(fused=a, single=b, differences=difference(a, b)) for a, b in pairs_of(runs)]
    family = adjusted([ablation.differences for ablation in ablations])
    ablations = [replace(ablation, differences=each) for ablation, each in zip(ablations, family, strict=True)]
    return Comparison(
        split=split,
        classes=runs[0].predictions.classes,
        runs=tuple(runs),
        differences=({}, *adjusted([difference(run, runs[0]) for run in runs[1:]])),
        ablations=tuple(ablations),
        generalisation=tuple(read_generalisation(run_dirs, given)),
        warnings=tuple(leakage.warnings(runs, ablations)),
    )


def _paired(n_bootstrap: int) -> Callable[[RunResult, RunResult], dict[str, Difference]]:
    """A function that returns, for each metric, the first run minus the second; it resamples each run once."""
    resamples: dict[str, Resampled] = {}

    def of(run: RunResult) -> Resampled:
        if run.name not in resamples:
            resamples[run.name] = resampled(run.predictions, n_bootstrap, seed=0)
        return resamples[run.name]

    def difference(run: RunResult, other: RunResult) -> dict[str, Difference]:
        differences = {
            name: bootstrap_difference(
                (run.estimate(*path).value, other.estimate(*path).value), (of(run), of(other)), path
            )
            for name, path in (HEADLINE | LOWER_IS_BETTER).items()
        }
        for index, name in enumerate(run.predictions.classes):
            differences[f"roc_auc/{name}"] = auc_difference(run.predictions, other.predictions, index)
        return differences

    return difference


def _names(run_dirs: Sequence[Path]) -> list[str]:
    folders = [folder.resolve() for folder in run_dirs]
    if len(set(folders)) < len(folders):
        raise UserError("a run folder is given twice: name each run once")
    short = [folder.name for folder in folders]
    unique = len(set(short)) == len(short)
    return short if unique else [f"{folder.parent.name}/{folder.name}" for folder in folders]


def _require_same_samples(a: RunResult, b: RunResult) -> None:
    if (a.predictions.task, a.predictions.classes) != (b.predictions.task, b.predictions.classes):
        raise UserError(
            f"{a.name} and {b.name} predict different classes ({', '.join(a.predictions.classes)} | "
            f"{', '.join(b.predictions.classes)}): compare runs of one data set"
        )
    labels_a, labels_b = _labels(a.predictions), _labels(b.predictions)
    common = labels_a.keys() & labels_b.keys()
    if not len(labels_a) == len(labels_b) == len(common):
        raise UserError(
            f"{a.name} and {b.name} were evaluated on different samples ({len(labels_a)} and {len(labels_b)}, "
            f"{len(common)} in common): evaluate both on the same split of the same shards"
        )
    differing = sum(labels_a[key] != labels_b[key] for key in common)
    if differing:
        raise UserError(
            f"{a.name} and {b.name} were evaluated against different labels ({differing} of {len(common)} "
            "samples differ): evaluate both on the same shards"
        )


def _labels(predictions: Predictions) -> dict[str, tuple[int, ...]]:
    rows = map(tuple, predictions.labels.tolist())
    return dict(zip(predictions.keys, rows, strict=True))


def _paths(classes: Sequence[str]) -> dict[str, MetricPath]:
    """Name in comparison.json -> path of a metric, for all metrics of a run."""
    return HEADLINE | LOWER_IS_BETTER | {f"roc_auc/{name}": ("per_class", name, "roc_auc") for name in classes}


def _control_to_dict(control: Control, classes: Sequence[str]) -> dict[str, Any]:
    metrics = {name: asdict(control.estimate(*path)) for name, path in _paths(classes).items()}
    return {"features": control.features, "trained_on": control.trained_on, "metrics": metrics}


def _run_to_dict(
    run: RunResult, differences: Mapping[str, Difference], first: str, classes: Sequence[str]
) -> dict[str, Any]:
    paths = _paths(classes)
    return {
        "name": run.name,
        **{field: run.evaluation[field] for field in FIELDS if field not in ("split", "made_data")},
        "metrics": {name: asdict(run.estimate(*path)) for name, path in paths.items()},
        "unfinished": run.unfinished or None,
        "out_of_fold": run.evaluation.get("out_of_fold"),
        "difference_to": first if differences else None,
        "differences": {name: asdict(difference) for name, difference in differences.items()},
        "calibration": run.evaluation["calibration"],
        "operating_points": run.evaluation["operating_points"],
        "subgroups": run.evaluation["subgroups"],
        "uncertainty": run.metrics.get("uncertainty"),
        "audit": run.evaluation.get("audit"),
        "conformal": run.evaluation.get("conformal"),
        "explanations": run.evaluation.get("explanations"),
    }
