"""Finished run folders in, one comparison out: the same samples, each metric with its interval, and warnings.

Runs that were evaluated on other samples, labels or classes are refused, because their numbers cannot stand
in one table.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cxr_dist.errors import UserError
from cxr_dist.evaluate.predictions import Predictions
from cxr_dist.evaluate.run_result import FIELDS, RunResult, read_run

MODE_NAMES = {"image": "image only", "text": "report only", "fused": "image + report"}
HEADLINE = {
    "macro_roc_auc": ("macro", "roc_auc"),
    "balanced_accuracy": ("balanced_accuracy",),
    "macro_f1": ("macro", "f1"),
    "accuracy": ("accuracy",),
}
"""Name in comparison.json -> where metrics.json has it."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Runs that were evaluated on the same samples."""

    split: str
    classes: tuple[str, ...]
    runs: tuple[RunResult, ...]
    warnings: tuple[str, ...]
    """What a reader must know before believing the table."""

    @property
    def made_data(self) -> bool:
        """Whether the films and reports are made (drawn by a program), not real."""
        return any(run.evaluation["made_data"] for run in self.runs)

    def to_dict(self) -> dict[str, Any]:
        """The content of comparison.json: per run and metric {"value", "low", "high"}."""
        first = self.runs[0].metrics
        return {
            "split": self.split,
            "task": first["task"],
            "samples": first["n"],
            "patients": first["patients"],
            "classes": list(self.classes),
            "made_data": self.made_data,
            "interval": {k: self.runs[0].evaluation["intervals"][k] for k in ("level", "method")},
            "warnings": list(self.warnings),
            "runs": [_run_to_dict(run, self.classes) for run in self.runs],
        }


def compare(run_dirs: Sequence[Path], split: str = "test") -> Comparison:
    """Read runs and check that they can be compared.

    Raises UserError for a folder given twice or without an evaluation of `split`, and for runs that differ in
    classes, samples or labels.
    """
    if not run_dirs:
        raise UserError("nothing to compare: name at least one run folder")
    runs = tuple(
        read_run(folder, name, split) for folder, name in zip(run_dirs, _names(run_dirs), strict=True)
    )
    for run in runs[1:]:
        _require_same_samples(runs[0], run)
    return Comparison(
        split=split, classes=runs[0].predictions.classes, runs=runs, warnings=tuple(_warnings(runs))
    )


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


def _warnings(runs: Sequence[RunResult]) -> Iterator[str]:
    yield from _text_warnings(runs)
    if any("impression" in run.evaluation["text_sections"] for run in runs):
        yield "The IMPRESSION is among the sections that were read: it usually names the finding."
    if any(run.evaluation["split_by"] == "image" for run in runs):
        yield (
            "The split is by image: films of one patient are in training and in the test, so the numbers are "
            "too good."
        )
    if len({run.environment.get("manifest_sha256") for run in runs}) > 1:
        yield "The runs were trained on different shard folders (their manifests differ)."


def _text_warnings(runs: Sequence[RunResult]) -> Iterator[str]:
    """Whether the report alone explains what a fused run gained."""
    fused = [run for run in runs if run.mode == "fused"]
    texts = [run for run in runs if run.mode == "text"]
    if fused and not texts:
        yield (
            "No report-only run is compared, so this does not say how much the report gives the answer away: "
            "train one with --model.mode text."
        )
    for run in fused:
        best = run.estimate("macro", "roc_auc")
        for text in texts:
            value = text.estimate("macro", "roc_auc").value
            if value is not None and best.low is not None and value >= best.low:
                yield (
                    f"The report alone ({text.name}, macro ROC AUC {value:.3f}) reaches the 95% interval of "
                    f"{run.name}: the report gives the answer away, and the film may add nothing."
                )


def _run_to_dict(run: RunResult, classes: tuple[str, ...]) -> dict[str, Any]:
    estimates = {name: run.estimate(*path) for name, path in HEADLINE.items()}
    estimates |= {f"roc_auc/{name}": run.estimate("per_class", name, "roc_auc") for name in classes}
    return {
        "name": run.name,
        **{field: run.evaluation[field] for field in FIELDS if field not in ("split", "made_data")},
        "metrics": {name: asdict(estimate) for name, estimate in estimates.items()},
        "uncertainty": run.metrics.get("uncertainty"),
    }
