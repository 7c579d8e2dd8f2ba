"""Repeated runs of one configuration, which differ only in their seed or in their test fold.

A bootstrap interval says how a result would vary with other test patients. It does not contain what another random
start, order and augmentation, or other training patients, would change. Two configurations that were repeated with the
same seeds or on the same folds are compared pair by pair.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import t as student

from cxr_dist.evaluate.bootstrap import LEVEL
from cxr_dist.evaluate.out_of_fold import common_name, same_but
from cxr_dist.evaluate.run_result import RunResult

_Paths = Mapping[str, tuple[str, ...]]
_Place = tuple[int, int | None]
"""Seed and test fold of a run."""
_ROUNDING = 1e-13
"""A smaller standard deviation is a rounding error, and leaves nothing to test against."""


@dataclass(frozen=True, kw_only=True)
class RepeatedRuns:
    """Two or more runs that differ only in their seed, in their test fold, or in both."""

    runs: tuple[RunResult, ...]

    @property
    def name(self) -> str:
        """`NAME (5 folds)`, where NAME is what the runs' names have in common; else the names of the runs."""
        common = common_name(self.runs) or (self.runs[0].config.run if self.folds else "")
        return f"{common} ({self.repeated})" if common else ", ".join(run.name for run in self.runs)

    @property
    def seeds(self) -> list[int]:
        """The seed of each run."""
        return [run.config.seed for run in self.runs]

    @property
    def folds(self) -> list[int]:
        """The test fold of each run; empty if they do not differ in it."""
        folds = [run.fold for run in self.runs if run.fold is not None]
        return folds if len(set(folds)) > 1 else []

    @property
    def repeated(self) -> str:
        """`3 seeds`, `5 folds` or `5 folds × 3 seeds`."""
        counts = [(len(set(self.folds)), "folds"), (len(set(self.seeds)), "seeds")]
        return " × ".join(f"{count} {name}" for count, name in counts if count > 1)

    def values(self, *path: str) -> list[float | None]:
        """The metric of each run."""
        return [run.estimate(*path).value for run in self.runs]

    def mean(self, *path: str) -> float | None:
        """The mean over the runs in which the metric is defined."""
        known = self._known(path)
        return float(np.mean(known)) if known else None

    def standard_deviation(self, *path: str) -> float | None:
        """The standard deviation of the runs (divided by their number - 1); None with fewer than two values."""
        known = self._known(path)
        return float(np.std(known, ddof=1)) if len(known) > 1 else None

    def to_dict(self, paths: _Paths) -> dict[str, Any]:
        """The entry of comparison.json."""
        metrics = {
            name: {
                "values": self.values(*path),
                "mean": self.mean(*path),
                "standard_deviation": self.standard_deviation(*path),
            }
            for name, path in paths.items()
        }
        folds = {"folds": self.folds} if self.folds else {}
        return {"runs": [run.name for run in self.runs], "seeds": self.seeds, **folds, "metrics": metrics}

    def at_places(self) -> dict[_Place, RunResult]:
        """(seed, test fold) -> run."""
        return {(run.config.seed, run.fold): run for run in self.runs}

    def _known(self, path: tuple[str, ...]) -> list[float]:
        return [value for value in self.values(*path) if value is not None]


@dataclass(frozen=True, kw_only=True)
class RepeatedDifference:
    """A metric of each run of one configuration minus that of its partner in another; None where undefined."""

    values: tuple[float | None, ...]
    mean: float | None
    standard_deviation: float | None
    low: float | None
    high: float | None
    p: float | None


@dataclass(frozen=True, kw_only=True)
class PairedRepeats:
    """Two configurations, with the runs of the same seed and test fold as pairs."""

    group: RepeatedRuns
    other: RepeatedRuns

    @property
    def pairs(self) -> list[tuple[RunResult, RunResult]]:
        """The runs of both that have the same seed and the same test fold of the same shards."""
        others = self.other.at_places()
        pairs = [(run, others[place]) for place, run in self.group.at_places().items() if place in others]
        return [(a, b) for a, b in pairs if a.fold is None or _shards(a) == _shards(b)]

    @property
    def paired_by(self) -> str:
        """What the runs of a pair have in common: `seed`, `fold`, or `seed and fold`."""
        several = [(self.group.seeds, "seed"), (self.group.folds, "fold")]
        return " and ".join(name for values, name in several if len(set(values)) > 1)

    @property
    def share(self) -> float:
        """Test samples per training sample if the runs differ in their test fold; else 0.

        Training sets of different folds overlap, so the values of the runs are correlated, and the variance of their
        mean is larger than that of independent values by this much (Nadeau and Bengio, Machine Learning 2003).
        """
        manifests = [run.manifest for run, _ in self.pairs if run.manifest is not None]
        if not self.group.folds or not manifests:
            return 0.0
        shares = [each.splits["test"].samples / each.splits["train"].samples for each in manifests]
        return float(np.mean(shares))

    @property
    def method(self) -> str:
        """The test and the interval, in words."""
        if self.group.folds:
            return "the paired t-test with the variance of Nadeau and Bengio (2003), because the training sets overlap"
        return "the paired t-test"

    def difference(self, *path: str) -> RepeatedDifference:
        """The metric of `group` minus that of `other`, with a 95% interval and a two-sided p-value."""
        both = [(a.estimate(*path).value, b.estimate(*path).value) for a, b in self.pairs]
        values = tuple(None if a is None or b is None else a - b for a, b in both)
        known = np.array([value for value in values if value is not None])
        mean = float(known.mean()) if len(known) else None
        deviation = float(known.std(ddof=1)) if len(known) > 1 else None
        if mean is None or deviation is None or deviation < _ROUNDING:
            return RepeatedDifference(
                values=values, mean=mean, standard_deviation=deviation, low=None, high=None, p=None
            )
        error, freedom = deviation * float(np.sqrt(1 / len(known) + self.share)), len(known) - 1
        half = float(student.isf((1 - LEVEL) / 2, freedom)) * error
        p = float(2 * student.sf(abs(mean) / error, freedom))
        return RepeatedDifference(
            values=values, mean=mean, standard_deviation=deviation, low=mean - half, high=mean + half, p=p
        )

    def to_dict(self, paths: _Paths) -> dict[str, Any]:
        """The entry of comparison.json."""
        return {
            "runs": [run.name for run in self.group.runs],
            "compared_to": [run.name for run in self.other.runs],
            "paired_by": self.paired_by,
            "pairs": [[a.name, b.name] for a, b in self.pairs],
            "method": self.method,
            "metrics": {name: asdict(self.difference(*path)) for name, path in paths.items()},
        }


@dataclass(frozen=True, kw_only=True)
class ComparisonRow:
    """One configuration of a comparison: a run, repeated runs, or both if the predictions of its folds are pooled."""

    run: RunResult | None
    repeats: RepeatedRuns | None

    @property
    def name(self) -> str:
        """The name of the run, otherwise of the repeated runs."""
        return next(each.name for each in (self.run, self.repeats) if each is not None)

    @property
    def first(self) -> RunResult:
        """The run, or the first of the repeated runs: all have the same input and settings."""
        return self.runs[0]

    @property
    def runs(self) -> tuple[RunResult, ...]:
        """The run, or the repeated runs."""
        if self.run is not None:
            return (self.run,)
        assert self.repeats is not None
        return self.repeats.runs

    def value(self, *path: str) -> float | None:
        """The metric of the run, otherwise the mean of the repeated runs."""
        if self.run is not None:
            return self.run.estimate(*path).value
        return None if self.repeats is None else self.repeats.mean(*path)


def rows_of(runs: Sequence[RunResult], groups: Sequence[RepeatedRuns]) -> list[ComparisonRow]:
    """One row for each configuration, in the order of its first run."""
    group_of = {run.name: group for group in groups for run in group.runs}
    rows: dict[str, ComparisonRow] = {}
    for run in runs:
        group = group_of.get(run.folds[0].name if run.folds else run.name)
        row = ComparisonRow(run=run, repeats=group)
        if group is not None and (not run.folds or len(set(group.seeds)) > 1):
            row = ComparisonRow(run=None, repeats=group)
        rows.setdefault(row.name, row)
    return list(rows.values())


def repeated_runs(runs: Sequence[RunResult]) -> list[RepeatedRuns]:
    """The groups of runs that differ only in their seed or test fold; ensembles are not grouped.

    Pooled runs stand for the runs of their folds.
    """
    groups: list[list[RunResult]] = []
    single = [each for run in runs for each in (run.folds or (run,)) if len(each.members) == 1]
    for run in single:
        same = next((group for group in groups if same_but({"seed", "data.fold"}, group[0], run)), None)
        if same is None:
            groups.append([run])
        elif all((run.config.seed, run.fold) != (other.config.seed, other.fold) for other in same):
            same.append(run)
    return [RepeatedRuns(runs=tuple(group)) for group in groups if len(group) > 1]


def paired_repeats(groups: Sequence[RepeatedRuns]) -> list[PairedRepeats]:
    """Each group after the first, paired with the first; groups without a common seed and fold are left out."""
    pairs = [PairedRepeats(group=group, other=groups[0]) for group in groups[1:]]
    return [each for each in pairs if each.pairs]


def _shards(run: RunResult) -> Any:
    return run.environment.get("manifest_sha256")
